"""Write WebDataset shards: the same names, order and bytes every time, and each file whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from fvit_ray.atomic import replacing
from fvit_ray.data.shards import INDEX, read_index

CLASSES = "classes.txt"

Progress = Callable[[str], None]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One sample to be written.

    key:    no dot in its last part (WebDataset ends the key there)
    label:  class index
    fields: extension -> contents, or the file that holds them; bytes travel untouched
    """

    key: str
    label: int
    fields: Mapping[str, bytes | Path]


class _Hashed:
    """A stream that hashes and counts what passes through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.sha256, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # mtime, uid and gid are 0 and the owner's names empty
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_shard(path: Path, items: Iterable[Item]) -> Entry:
    """Write one shard, gzipped if its name ends in .gz; -> its entry in the index."""
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as stream:
        hashed = _Hashed(stream)
        packed: Any = hashed
        if path.suffix == ".gz":
            packed = gzip.GzipFile("", "wb", compresslevel=9, fileobj=hashed, mtime=0)
        with tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:
            for item in items:
                for extension, data in item.fields.items():
                    contents = data if isinstance(data, bytes) else data.read_bytes()
                    _add(tar, f"{item.key}.{extension}", contents)
                _add(tar, f"{item.key}.cls", str(item.label).encode())
                count += 1
        if packed is not hashed:
            packed.close()
    return {"samples": count, "bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}


def _recipe(items: Sequence[Item]) -> str:
    """Digest of what a shard is to hold, without reading the files: keys, labels and sizes."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        sizes = [
            (extension, len(data) if isinstance(data, bytes) else data.stat().st_size)
            for extension, data in item.fields.items()
        ]
        digest.update(repr((item.key, item.label, sizes)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _is_kept(path: Path, entry: Entry | None, recipe: str) -> bool:
    """Whether the shard of an earlier run is complete, undamaged and of the same samples."""
    if not entry or entry.get("recipe") != recipe or not path.exists():
        return False
    if path.stat().st_size != entry["bytes"]:
        return False
    with path.open("rb") as stream:
        return bool(hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"])


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


def write_shards(
    items: Iterable[Item],
    out: Path,
    *,
    prefix: str,
    per_shard: int,
    class_names: Sequence[str],
    suffix: str = ".tar",
    progress: Progress = lambda line: None,
) -> dict[str, Entry]:
    """Write `out/prefix-000000.tar` and so on, index.json and classes.txt; -> the index.

    The index is rewritten after every shard, so that the same call again keeps the shards that are
    complete and goes on behind them; shards of other prefixes stay in it. Shards of this prefix
    that the same call no longer makes are removed. Raises ValueError on two items of one key.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / CLASSES, "".join(f"{name}\n" for name in class_names))
    before, index = read_index(str(out)), {}
    seen: set[str] = set()
    source = iter(items)
    groups = iter(lambda: list(islice(source, per_shard)), [])
    for number, group in enumerate(groups):
        for item in group:
            if item.key in seen:
                raise ValueError(f"{item.key}: two samples have this key; rename one")
            seen.add(item.key)
        path = out / f"{prefix}-{number:06d}{suffix}"
        entry, recipe = before.get(path.name), _recipe(group)
        kept = entry is not None and _is_kept(path, entry, recipe)
        if entry is None or not kept:
            entry = write_shard(path, group) | {"recipe": recipe}
        index[path.name] = entry
        _write_text(out / INDEX, json.dumps({"shards": before | index}, indent=1) + "\n")
        did = "kept" if kept else "written"
        progress(f"{path}: {did}, {entry['samples']} samples, {entry['bytes'] / 2**20:.1f} MiB")
    for name in sorted(before.keys() - index.keys()):
        if re.fullmatch(rf"{re.escape(prefix)}-\d{{6,}}\.tar(\.gz)?", name):
            (out / name).unlink(missing_ok=True)
            progress(f"{out / name}: removed, left from a longer run of the same name")
            del before[name]
    _write_text(out / INDEX, json.dumps({"shards": before | index}, indent=1) + "\n")
    return index


def make_shards(
    read: Callable[[Path, Progress], tuple[Iterator[Item], list[str]]],
    source: Path,
    out: Path,
    prefix: str,
    per_shard: int,
    progress: Progress,
) -> None:
    """Shards of what `read` finds in `source`; raises ValueError with one line, or OSError."""
    if per_shard < 1:
        raise ValueError(f"--per-shard {per_shard}: must be at least 1")
    items, class_names = read(source, progress)
    index = write_shards(
        items,
        out,
        prefix=prefix,
        per_shard=per_shard,
        class_names=class_names,
        progress=progress,
    )
    samples = sum(entry["samples"] for entry in index.values())
    progress(f"{out}: {samples} samples of {len(class_names)} classes in {len(index)} shards")
