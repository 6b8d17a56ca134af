"""The progress line counts, and its rate is that of the work, not of the start."""

from __future__ import annotations

import io

import pytest

from fvit_ray.dist import progress
from fvit_ray.dist.progress import Progress


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0, 40.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    text = io.StringIO()
    with Progress(100, done=20, stream=text) as line:  # resumed at 20
        for _ in range(3):  # the first commit comes after 30 s of starting
            line.advance(20, errors=1)
    lines = text.getvalue().splitlines()
    assert lines[0] == "starting: 20/100 samples (20%), networks are being built"
    assert lines[1] == "40/100 samples (40%)  1 errors"
    assert lines[2] == "60/100 samples (60%)  2.00 images/s  0:20 left  2 errors"
    assert lines[3] == "80/100 samples (80%)  2.00 images/s  0:10 left  3 errors"


def test_an_unknown_total_is_not_made_up() -> None:
    text = io.StringIO()
    with Progress(None, stream=text) as line:
        line.live = True
        line.advance(5, errors=0)
    assert "5 samples" in text.getvalue()
    assert "left" not in text.getvalue()
