"""A tar reader that says where an archive is damaged and goes on behind the damage.

Python's tarfile ends silently at a damaged header, which loses every later sample of a shard. Here
a header that does not check out becomes a `Damage`, and the next valid header is searched for. To
say so of a header that the member before it has swallowed (its body was cut), every member is held
back until what follows it has been seen. ustar, GNU long names and PAX paths; gzip by its magic.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK = 512
READ = 1 << 16  # bytes asked of the stream at once
MAX_MEMBER = 1 << 30  # a header that claims more is taken for damaged
MAX_PADDING = 1 << 16  # bytes; more zeros than any usual end of archive: the data are gone
MAGIC = b"ustar"  # at byte 257 of every header since 1988
NO_FILE = b"123456S"  # links, devices, directories, sparse files: no contents behind the header


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """One regular file, or with `problem` what should have been one."""

    name: bytes
    data: bytes
    problem: str | None = None


@dataclass(frozen=True)
class Damage:
    """A place (byte of the unpacked archive) where members may be lost, and why."""

    offset: int
    what: str


@dataclass(frozen=True)
class _Header:
    name: bytes
    size: int
    kind: bytes

    @property
    def padded(self) -> int:
        return -(-self.size // BLOCK) * BLOCK


def _parse(block: bytes) -> _Header | None:
    """The header in these 512 bytes, or None if they are no valid one."""
    if len(block) < BLOCK:
        return None
    try:
        checksum = int(block[148:156].strip(b" \0"), 8)
        size = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if checksum != sum(block[:148]) + 8 * 0x20 + sum(block[156:]) or not 0 <= size <= MAX_MEMBER:
        return None
    name = block[:100].split(b"\0")[0]
    if block[257:263] == MAGIC + b"\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    kind = block[156:157]
    return _Header(name, 0 if kind in NO_FILE else size, kind)


def _pax_path(body: bytes) -> bytes | None:
    """The `path` record of a PAX header ("<length> <key>=<value>\\n" repeated)."""
    path = None
    while body:
        digits = body.split(b" ", 1)[0]
        if not digits.isdigit() or int(digits) <= len(digits):
            break
        key, _, value = body[len(digits) + 1 : int(digits) - 1].partition(b"=")
        path = value if key == b"path" else path
        body = body[int(digits) :]
    return path


class _Gunzip:
    """Unpacks in small steps, so that all that lies before a damaged byte comes out."""

    STEP = 512

    def __init__(self, stream: Readable) -> None:
        self.problem: str | None = None
        self._stream, self._packed, self._zip = stream, b"", zlib.decompressobj(wbits=31)

    def read(self, size: int) -> bytes:
        out: list[bytes] = []
        while sum(map(len, out)) < size and self.problem is None:
            if not self._packed and not (self._packed := self._stream.read(READ)):
                self.problem = None if self._zip.eof else "the gzip stream ends early"
                break
            if self._zip.eof:  # another gzip member may follow
                self._zip = zlib.decompressobj(wbits=31)
            step, self._packed = self._packed[: self.STEP], self._packed[self.STEP :]
            try:
                out.append(self._zip.decompress(step))
            except zlib.error as error:
                self.problem = f"the gzip stream is damaged ({error})"
            self._packed = self._zip.unused_data + self._packed
        return b"".join(out)


class _Source:
    """A buffered stream that knows its offset and takes bytes back."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._buffer, self.offset = stream, bytearray(), 0
        self._fill(2)
        self._gzip = None
        if self._buffer[:2] == b"\x1f\x8b":
            head, self._buffer = bytes(self._buffer), bytearray()
            self._gzip = self._stream = _Gunzip(_Chained(head, stream))

    @property
    def problem(self) -> str | None:
        return self._gzip.problem if self._gzip else None

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            more = self._stream.read(max(READ, size - len(self._buffer)))
            if not more:
                return False
            self._buffer += more
        return True

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        self._fill(size)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.offset += len(data)
        return data

    def unread(self, data: bytes) -> None:
        self._buffer[:0] = data
        self.offset -= len(data)

    def skip_zeros(self) -> int:
        """Skip to the first byte that is not zero or to the end; -> bytes skipped."""
        start = self.offset
        while data := self.read(READ):
            if rest := data.lstrip(b"\0"):
                self.unread(rest)
                break
        return self.offset - start

    def seek_header(self) -> bool:
        """Skip to the next valid header, at any byte; False, and all skipped, if there is none."""
        searched = 257
        while True:
            at = self._buffer.find(MAGIC, searched)
            if at < 0:
                more = self._fill(len(self._buffer) + READ) or len(self._buffer) > BLOCK
                drop = max(0, len(self._buffer) - BLOCK) if more else len(self._buffer)
                if self._buffer.find(MAGIC, searched) >= 0:
                    continue
                self.read(drop)
                searched = 257
                if not more or drop == 0:
                    self.read(len(self._buffer))
                    return False
                continue
            self._fill(at - 257 + BLOCK)
            if _parse(bytes(self._buffer[at - 257 : at - 257 + BLOCK])):
                self.read(at - 257)
                return True
            searched = at + 1


class _Chained:
    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._stream.read(size)
