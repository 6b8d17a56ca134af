"""The samples of WebDataset shards, none of which is ever lost silently."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvit_ray.data.tar import Damage, Member, members
from fvit_ray.data.urls import (
    ShardError,
    Stream,
    Trouble,
    expand,
    open_file,
    opened,
    shard_id,
    shard_ids,
    shown,
)

__all__ = [
    "RawSample",
    "ShardError",
    "count_samples",
    "expand",
    "known_samples",
    "read_chunks",
    "read_index",
    "read_samples",
    "shard_id",
    "shard_ids",
]

INDEX = "index.json"
BACKOFF = (1.0, 4.0)  # seconds before the second and the third try


@dataclass(frozen=True)
class RawSample:
    """One sample as it lies in its shard.

    key:      member path up to the first dot of its last part; escaped where it is not printable
    position: 0-based in the shard, counting bad samples too
    fields:   lower-case extension ("jpg", "cls", "mask.png") -> contents
    error:    why it cannot be used, in one line; None for a good one
    """

    key: str
    position: int
    fields: dict[str, bytes]
    error: str | None = None


def _escaped(name: bytes) -> str:
    """Printable and reversible: a backslash doubled, all else that is not printable as \\xNN."""
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text
    )


def _named(name: bytes) -> tuple[str, str, str | None] | None:
    """(key, extension, error) of a member; None for what belongs to no sample (hidden files)."""
    error = None
    try:
        text = name.decode()
        if not text.isprintable():
            text = _escaped(name)
    except UnicodeDecodeError:
        text, error = _escaped(name), "the member's name is not UTF-8"
    text = re.sub(r"^(\./+)+", "", text)  # as GNU tar writes the members of a folder
    folder, slash, base = text.rpartition("/")
    parts = text.replace("\\", "/").split("/")
    if text.startswith("/") or ".." in parts:
        error = "the member's name leaves the shard's folder (absolute, or with ..)"
    elif base.startswith("."):
        return None
    stem, _, extension = base.partition(".")
    if not extension and error is None:
        error = "the member's name has no extension"
    return folder + slash + stem, extension.lower(), error


def _grouped(
    parts: Iterable[Member | Damage], damages: list[str]
) -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    """(key, fields, error) of every run of members of one key; damages are set aside."""
    seen: set[str] = set()
    key, fields, error = None, dict[str, bytes](), None
    for part in parts:
        if isinstance(part, Damage):
            damages.append(f"damaged at byte {part.offset}: {part.what}")
            continue
        named = _named(part.name)
        if named is None:
            continue
        this, extension, trouble = named
        if this != key:
            if key is not None:
                yield key, fields, error
            key, fields, error = this, {}, None
            if key in seen:
                error = "duplicate key: samples before it in this shard have the same"
            seen.add(key)
        if part.problem:
            trouble = trouble or f"member .{extension} {part.problem}"
        elif extension in fields:
            trouble = trouble or f"member .{extension} is there twice"
        error = error or trouble
        fields.setdefault(extension, part.data)
    if key is not None:
        yield key, fields, error


def _samples(stream: Stream, url: str, name: str) -> Iterator[RawSample]:
    damages: list[str] = []
    position = 0
    for key, fields, error in _grouped(members(stream), damages):
        yield RawSample(key, position, fields, error)
        position += 1
    promised = known_samples(url)
    if promised is not None and position < promised:
        short = f"{INDEX} promises {promised} samples, {position} were found"
        damages[-1:] = [f"{damages[-1]}; {short}" if damages else short]
    elif not position and not damages:
        damages.append("the shard holds no samples")
    for number, damage in enumerate(damages):
        error = f"shard {shown(url)}: {damage}"
        yield RawSample(f"{name}#damage-{number}", position + number, {}, error)


def read_samples(url: str, name: str | None = None) -> Iterator[RawSample]:
    """The samples of one shard in order, streamed; `name` is the shard's id.

    Whatever is wrong with a sample is in its `error`. A damaged shard yields all that can be found
    before and behind the damage, and at its end one more sample, key `<id>#damage-<n>`, for every
    damage. Raises ShardError when the shard cannot be opened, or after three broken connections;
    every try begins at the first byte.
    """
    done = 0
    for wait in (*BACKOFF, None):
        try:
            with opened(url) as stream:
                for sample in _samples(stream, url, name or shard_id(url)):
                    if sample.position >= done:
                        done += 1
                        yield sample
            return
        except Trouble as trouble:
            if trouble.final or wait is None:
                raise ShardError(
                    f"{shown(url)}: cannot be read ({trouble}); check the name and your access"
                ) from trouble
            time.sleep(wait)


def read_chunks(
    url: str,
    chunk: int,
    *,
    start: int = 0,
    limit: int | None = None,
    skip: Container[int] = (),
    name: str | None = None,
) -> Iterator[tuple[int, list[RawSample]]]:
    """(chunk number, its samples): chunk n holds the positions n * chunk to (n + 1) * chunk - 1.

    start: the first chunk wanted; limit: samples at this position and behind are left out;
    skip: chunks not wanted. Raises as `read_samples`.
    """
    group: list[RawSample] = []
    for sample in read_samples(url, name):
        if limit is not None and sample.position >= limit:
            break
        number = sample.position // chunk
        if number < start or number in skip:
            continue
        group.append(sample)
        if len(group) == chunk:
            yield number, group
            group = []
    if group:
        yield group[0].position // chunk, group


def read_index(folder: str) -> dict[str, dict[str, Any]]:
    """File name -> {samples, bytes, sha256} of the shards in a folder; {} without an index."""
    try:
        with open_file(f"{folder}/{INDEX}") as stream:
            shards = json.loads(stream.read())["shards"]
    except Exception:  # each file system has its own "not found"; an index is an extra
        return {}
    return shards if isinstance(shards, dict) else {}


def known_samples(url: str) -> int | None:
    """How many samples the index beside the shard promises; None without one."""
    folder, _, file = (url if "://" in url else str(Path(url).absolute())).rpartition("/")
    entry = read_index(folder).get(file)
    count = entry.get("samples") if isinstance(entry, dict) else None
    return count if isinstance(count, int) else None


def count_samples(url: str) -> int:
    """How many samples a shard holds: as its index says, else by reading it (bad ones count)."""
    known = known_samples(url)
    return sum(1 for _ in read_samples(url)) if known is None else known
