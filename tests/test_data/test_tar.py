"""The tar reader agrees with Python's tarfile, and names every kind of damage."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable

import numpy as np
import pytest

from fvit_ray.data.tar import Damage, Member, members

Archive = Callable[..., bytes]
LONG = "folder/" * 20 + "x" * 90 + ".jpg"


def read(raw: bytes) -> list[Member | Damage]:
    return list(members(io.BytesIO(raw)))


def damages(raw: bytes) -> list[str]:
    return [part.what for part in read(raw) if isinstance(part, Damage)]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(make_archive: Archive, format: int, gz: bool) -> None:
    sizes = {"a.jpg": 3, "d/b.jpg": 512, "x" * 90 + "/" + "y" * 90 + ".png": 70_000, "e.cls": 0}
    if format != tarfile.USTAR_FORMAT:
        sizes |= {LONG: 9, "héé/ü.jpg": 1000}
    rng = np.random.default_rng(0)
    wanted = [(name, rng.bytes(size)) for name, size in sizes.items()]
    raw = make_archive(wanted, gz=gz, format=format)
    assert read(raw) == [Member(name.encode(), data) for name, data in wanted]


def test_directories_are_skipped_and_links_are_no_files() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.pax_headers = {"comment": "global"}
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    (link,) = read(stream.getvalue())
    assert isinstance(link, Member)
    assert link.name == b"l.jpg"
    assert link.problem is not None
    assert "link" in link.problem


def test_an_empty_archive_is_no_damage(make_archive: Archive) -> None:
    assert read(make_archive([])) == []


def test_a_nested_tar_is_no_damage(make_archive: Archive) -> None:
    inner = make_archive([("x.jpg", b"x")])
    assert read(make_archive([("a.tar", inner)])) == [Member(b"a.tar", inner)]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "truncated inside a header"),
        (b"<html>not found</html>" * 100, "no valid tar header"),
        (bytes(range(256)) * 1000, "no valid tar header"),
        (bytes(512), "end-of-archive"),
        (bytes(100_000), "zeros"),
    ],
)
def test_what_is_no_tar_is_one_damage(raw: bytes, what: str) -> None:
    (found,) = damages(raw)
    assert what in found


def test_a_damaged_header_loses_its_own_member_alone(make_archive: Archive) -> None:
    raw = bytearray(make_archive([(f"{i}.jpg", bytes([i + 1]) * 700) for i in range(5)]))
    at = 2 * 1536
    raw[at + 10] ^= 1
    parts = read(bytes(raw))
    assert [p.name for p in parts if isinstance(p, Member)] == [
        b"0.jpg",
        b"1.jpg",
        b"3.jpg",
        b"4.jpg",
    ]
    assert [p.offset for p in parts if isinstance(p, Damage)] == [at]
    with tarfile.open(fileobj=io.BytesIO(bytes(raw))) as tar:  # why there is a reader here
        assert tar.getnames() == ["0.jpg", "1.jpg"]


def test_two_archives_in_a_row_are_both_read(make_archive: Archive) -> None:
    raw = make_archive([("a.jpg", b"a")]) + make_archive([("b.jpg", b"b")])
    names = [p.name for p in read(raw) if isinstance(p, Member)]
    assert names == [b"a.jpg", b"b.jpg"]
    assert len(damages(raw)) == 1


def test_a_member_cut_by_the_end_of_the_file_says_so(make_archive: Archive) -> None:
    first, last = read(make_archive([("a.jpg", b"a" * 1000)])[:1000])
    assert isinstance(first, Member)
    assert first.problem == "is truncated to 488 of 1000 bytes"
    assert isinstance(last, Damage)
    assert "truncated" in last.what


def test_bytes_lost_from_a_body_do_not_take_the_next_member_along(make_archive: Archive) -> None:
    raw = make_archive([("a.jpg", b"a" * 2000), ("b.cls", b"1"), ("c.jpg", b"c")])
    parts = read(raw[:600] + raw[600 + 1024 :])  # the headers stay on their 512-byte grid
    found = {p.name: p.problem for p in parts if isinstance(p, Member)}
    assert found == {b"a.jpg": "lost or gained bytes", b"b.cls": None, b"c.jpg": None}
    assert any(isinstance(p, Damage) for p in parts)


def test_gzip_streams(make_archive: Archive) -> None:
    rng = np.random.default_rng(0)
    wanted = [(f"{i}.jpg", rng.bytes(3000)) for i in range(10)]
    raw = make_archive(wanted)
    good = [Member(name.encode(), data) for name, data in wanted]
    half = len(raw) // 2
    assert read(gzip.compress(raw[:half]) + gzip.compress(raw[half:])) == good
    assert read(gzip.compress(raw) + bytes(700)) == good

    packed = gzip.compress(raw)
    short = read(packed[: len(packed) * 6 // 10])
    assert short[:5] == good[:5]
    assert isinstance(short[-1], Damage)
    assert "ends early" in short[-1].what

    wrong = bytearray(packed)
    wrong[-6] ^= 1  # the checksum at the end
    assert read(bytes(wrong))[:10] == good
    assert "check" in damages(bytes(wrong))[0]
