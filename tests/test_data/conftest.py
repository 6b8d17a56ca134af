"""Shards and pictures made of real bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Members = list[tuple[str, bytes]]


def archive(members: Members, *, gz: bool = False, format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream,
        mode="w:gz" if gz else "w",
        format=format,
        encoding="utf-8",
        errors="surrogateescape",
    ) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def picture(array: Any, format: str = "png", mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(np.asarray(array))
    if mode is not None:
        image = image.convert(mode)
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def make_archive() -> Callable[..., bytes]:
    return archive


@pytest.fixture
def make_picture() -> Callable[..., bytes]:
    return picture


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., str]:
    """Write members (or raw bytes) as a shard; -> its path."""

    def write(content: Members | bytes, name: str = "s-000000.tar", **options: Any) -> str:
        path = tmp_path / name
        gz = name.endswith("gz")
        raw = content if isinstance(content, bytes) else archive(content, gz=gz, **options)
        path.write_bytes(raw)
        return str(path)

    return write


@pytest.fixture
def colours() -> np.ndarray:
    """A smooth (24, 36, 3) uint8 image whose eight orientations all differ."""
    y, x = np.mgrid[:24, :36]
    return np.stack([x * 7, y * 10, 255 - x * 3 - y * 2], -1).astype(np.uint8)
