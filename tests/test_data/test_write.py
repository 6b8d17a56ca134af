"""Shards are the same bytes every time, whole or not there, and resumed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from fvit_ray.data.shards import count_samples, expand, read_index, read_samples
from fvit_ray.data.write import Item, make_shards, write_shard, write_shards


def items(count: int = 5) -> list[Item]:
    return [
        Item(f"dir/k{i}", i % 3, {"jpg": b"x" * 700 * i, "mask.png": b"m"}) for i in range(count)
    ]


def write(out: Path, samples: list[Item], suffix: str = ".tar") -> tuple[list[str], dict[str, str]]:
    lines: list[str] = []
    index = write_shards(
        samples,
        out,
        prefix="p",
        per_shard=2,
        class_names=["a", "b", "c"],
        suffix=suffix,
        progress=lines.append,
    )
    return lines, {name: entry["sha256"] for name, entry in index.items()}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_what_is_written_is_read_back_and_always_the_same(tmp_path: Path, suffix: str) -> None:
    _, first = write(tmp_path / "a", items(), suffix)
    _, again = write(tmp_path / "b", items(), suffix)
    assert first == again
    urls = expand(str(tmp_path / "a"))
    assert [Path(url).name for url in urls] == [f"p-00000{i}{suffix}" for i in range(3)]
    assert [count_samples(url) for url in urls] == [2, 2, 1]
    read = [s for url in urls for s in read_samples(url)]
    assert not any(s.error for s in read)
    assert [(s.key, int(s.fields["cls"]), s.fields["jpg"]) for s in read] == [
        (i.key, i.label, i.fields["jpg"]) for i in items()
    ]
    for url in urls:
        name = Path(url).name
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert read_index(str(tmp_path / "a"))[name]["bytes"] == Path(url).stat().st_size
        with tarfile.open(url) as tar:
            assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}
    assert (tmp_path / "a" / "classes.txt").read_text() == "a\nb\nc\n"


def test_complete_shards_are_kept_and_others_written_again(tmp_path: Path) -> None:
    write(tmp_path, items())
    assert all(": kept," in line for line in write(tmp_path, items())[0])

    (tmp_path / "p-000000.tar").unlink()
    damaged = tmp_path / "p-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert [": kept," in line for line in write(tmp_path, items())[0]] == [False, False, True]
    assert all(": kept," in line for line in write(tmp_path, items())[0])

    changed = [*items()[:4], Item("new", 0, {"jpg": b""})]
    assert [": kept," in line for line in write(tmp_path, changed)[0]] == [True, True, False]


def test_an_interrupted_run_leaves_whole_shards_and_goes_on(tmp_path: Path) -> None:
    broken = items()
    broken[3] = Item("gone", 0, {"jpg": tmp_path / "gone.jpg"})
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        write(tmp_path, broken)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "classes.txt",
        "index.json",
        "p-000000.tar",
    ]
    assert set(read_index(str(tmp_path))) == {"p-000000.tar"}
    assert [": kept," in line for line in write(tmp_path, items())[0]] == [True, False, False]


def test_a_shorter_run_leaves_no_shard_of_the_longer_one(tmp_path: Path) -> None:
    write_shards(items(2), tmp_path, prefix="p-other", per_shard=2, class_names=["a"])
    write(tmp_path, items(5))
    lines, _ = write(tmp_path, items(3))
    left = ["p-000000.tar", "p-000001.tar", "p-other-000000.tar"]
    assert [Path(url).name for url in expand(str(tmp_path))] == left
    assert sorted(read_index(str(tmp_path))) == left
    assert "p-000002.tar: removed" in lines[-1]


def test_a_shard_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with pytest.raises(FileNotFoundError):
        write_shard(path, [*items(), Item("x", 0, {"jpg": tmp_path / "none"})])
    assert list(tmp_path.iterdir()) == []


def test_two_samples_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dir/k0: two samples have this key"):
        write(tmp_path, [*items(2), items(1)[0]])


def test_an_index_that_is_none_is_ignored(tmp_path: Path) -> None:
    for text in ("", "[]", '{"shards": 3}', "{}"):
        (tmp_path / "index.json").write_text(text)
        assert read_index(str(tmp_path)) == {}
    write(tmp_path, items())
    assert (
        json.loads((tmp_path / "index.json").read_text())["shards"]["p-000002.tar"]["samples"] == 1
    )


def test_make_shards_says_what_it_did(tmp_path: Path) -> None:
    lines: list[str] = []
    make_shards(
        lambda source, progress: (iter(items()), ["a"]), tmp_path, tmp_path, "p", 3, lines.append
    )
    assert lines[-1] == f"{tmp_path}: 5 samples of 1 classes in 2 shards"
    with pytest.raises(ValueError, match="--per-shard 0"):
        make_shards(lambda s, p: (iter(()), []), tmp_path, tmp_path, "p", 0, lines.append)
