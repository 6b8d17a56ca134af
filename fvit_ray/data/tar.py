"""A tar reader that says where an archive is damaged and goes on behind the damage.

Python's tarfile ends silently at a damaged header, which loses every later sample of a shard. Here
a header that does not check out becomes a `Damage`, and the next valid header is searched for. To
say so of a header that the member before it has swallowed (its body was cut), every member is held
back until what follows it has been seen. ustar, GNU long names and PAX paths; gzip by its magic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fvit_ray.data.gunzip import READ, Chained, Gunzip, Readable

BLOCK = 512
MAX_MEMBER = 1 << 30  # a header that claims more is taken for damaged
MAX_PADDING = 1 << 16  # bytes; more zeros than any usual end of archive: the data are gone
MAGIC = b"ustar"  # at byte 257 of every header since 1988
NO_FILE = b"123456S"  # links, devices, directories, sparse files: no contents behind the header


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


class _Source:
    """A buffered stream that knows its offset and takes bytes back."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._buffer, self.offset = stream, bytearray(), 0
        self._fill(2)
        self._gzip = None
        if self._buffer[:2] == b"\x1f\x8b":
            head, self._buffer = bytes(self._buffer), bytearray()
            self._gzip = self._stream = Gunzip(Chained(head, stream))

    @property
    def at_end(self) -> bool:
        return not self._fill(1)

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
        while self._fill(BLOCK):
            magic = self._buffer.find(MAGIC, 257)
            if magic < 0:
                self.read(len(self._buffer) - BLOCK + 1)  # a header may begin in the last 511
                continue
            start = magic - 257
            self._fill(start + BLOCK)
            if _parse(bytes(self._buffer[start : start + BLOCK])):
                self.read(start)
                return True
            self.read(start + 1)
        self.read(len(self._buffer))
        return False


def _hides_header(header: _Header, body: bytes) -> bool:
    """Whether the contents hold a header of this archive: bytes were lost from them."""
    if header.name.endswith(b".tar"):
        return False
    magic = body.find(MAGIC, 257)
    while magic >= 0:
        if _parse(body[magic - 257 : magic - 257 + BLOCK]):
            return True
        magic = body.find(MAGIC, magic + 1)
    return False


def _member(header: _Header, name: bytes, body: bytes) -> Member | None:
    """What the header announced; None for a directory."""
    if header.kind == b"5" or (name.endswith(b"/") and not header.size):
        return None
    if header.kind in NO_FILE:
        return Member(name, b"", "is a link or a special file, its contents are not in the shard")
    if len(body) < header.size:
        return Member(name, body, f"is truncated to {len(body)} of {header.size} bytes")
    return Member(name, body[: header.size])


def _is_suspect(member: Member, body: bytes, gap: int) -> bool:
    """Whether the member before a damage is itself hit: the next header lies inside it (`gap`
    bytes from its end), its padding is not zero, or there is none and the headers are shifted."""
    padding = body[len(member.data) :]
    return gap < 0 or any(padding) or (not padding and gap % BLOCK != 0)


def _ending(zeros: int) -> str | None:
    """What is wrong with so many zero bytes at the end of an archive."""
    if zeros < 2 * BLOCK:
        return "truncated: the end-of-archive marker is missing"
    if zeros > MAX_PADDING:
        return f"the last {zeros} bytes are zeros: probably downloaded in part"
    return None


def _invalid(block: bytes, offset: int) -> str:
    if not block and not offset:
        return "the file is empty"
    if not block:
        return "truncated: the end-of-archive marker is missing"
    if len(block) < BLOCK:
        return "truncated inside a header"
    return "no valid tar header here"


def members(stream: Readable) -> Iterator[Member | Damage]:
    """The regular files of a tar (gzipped or not) in order, and the places where some may be lost.

    Raises only what `stream.read` raises.
    """
    source = _Source(stream)
    held: Member | None = None  # seen, but its length is proven only by what follows
    body, long_name, cut = b"", None, False
    while True:
        start = source.offset
        block = source.read(BLOCK)
        header = _parse(block)
        if header is not None and not cut:
            if held is not None:
                yield held
            held, body = None, source.read(header.padded)
            if header.kind == b"L":
                long_name = body[: header.size].rstrip(b"\0")
            elif header.kind == b"x":
                long_name = _pax_path(body[: header.size]) or long_name
            elif header.kind not in b"gK":
                held, long_name = _member(header, long_name or header.name, body), None
                cut = _hides_header(header, body)
            continue
        what: str | None
        zeros = len(block) == BLOCK and not block.strip(b"\0") and not cut
        if zeros:
            length = BLOCK + source.skip_zeros()
            what = _ending(length) if source.at_end else "zeros where a header should be"
        else:
            what = (
                "a file holds later headers: bytes were lost from it"
                if cut
                else _invalid(block, start)
            )
            source.unread(body + block)
        found = source.seek_header()
        if held is not None:
            if found and not zeros and _is_suspect(held, body, source.offset - start):
                held = Member(held.name, held.data, "lost or gained bytes")
            yield held
        if what := source.problem or what:
            yield Damage(start, what)
        if not found:
            return
        held, body, long_name, cut = None, b"", None, False
