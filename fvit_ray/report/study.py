"""report.html of a study."""

from __future__ import annotations

from pathlib import Path


def write_page(folder: Path) -> Path:
    return folder / "report.html"
