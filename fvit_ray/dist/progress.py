"""One live line on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

PLAIN_EVERY = 10.0  # seconds


class Progress:
    """Samples done of a total, with rate and time left; `total` None where it is not known."""

    def __init__(self, total: int | None, done: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.done, self.errors, self.start = total, done, 0, done
        self.stream = stream or sys.stderr
        self.began = self.last = time.monotonic()
        self.live = self.stream.isatty()
        self.going = False

    def __enter__(self) -> Self:
        self._show(f"starting: {self._share()}, networks are being built")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.stream.write("\n")

    def advance(self, samples: int, errors: int) -> None:
        """Count a committed chunk."""
        now = time.monotonic()
        if not self.going:
            # from the first commit on: before it the actors started, which says nothing of the rest
            self.going, self.began, self.start = True, now, self.done + samples
        self.done += samples
        self.errors += errors
        if self.live or now - self.last >= PLAIN_EVERY or self.done == self.total:
            self.last = now
            self._show(self.line(now - self.began))

    def line(self, elapsed: float) -> str:
        """The line after `elapsed` seconds."""
        # two actors' first commits come at almost one moment, which is no rate yet
        rate = (self.done - self.start) / elapsed if elapsed > 1 else 0.0
        parts = [self._share()]
        if rate:
            parts.append(f"{rate:.2f} images/s")
        if self.total and rate:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        if self.errors:
            parts.append(f"{self.errors} errors")
        return "  ".join(parts)

    def _share(self) -> str:
        if not self.total:
            return f"{self.done} samples"
        return f"{self.done}/{self.total} samples ({self.done / self.total:.0%})"

    def _show(self, text: str) -> None:
        self.stream.write(f"\r\x1b[2K{text}" if self.live else f"{text}\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
