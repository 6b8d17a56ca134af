"""The README names tests as proofs: they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NAMED = re.compile(r"`(test_\w+)(?:::(test_\w+)(\.\.\.)?)?`")


@pytest.fixture(scope="module")
def tests(root: Path) -> dict[str, list[str]]:
    """File's stem -> its test functions."""
    files = (root / "tests").rglob("test_*.py")
    return {f.stem: re.findall(r"^def (test_\w+)", f.read_text(), re.MULTILINE) for f in files}


def test_every_test_that_is_named_exists(root: Path, tests: dict[str, list[str]]) -> None:
    """`test_file`, `test_file::test_name`, or `test_file::test_nam...`, which begins one name."""
    named = NAMED.findall((root / "README.md").read_text())
    assert len(named) > 10
    for file, name, cut in named:
        assert file in tests, file
        if cut:
            assert sum(other.startswith(name) for other in tests[file]) == 1, name
        elif name:
            assert name in tests[file], f"{file}::{name}"
