"""A whole run: check everything, stream the shards through the actors, write the report.

parse -> already finished? reprint
      -> preflight (models known, shards found, plan) -> Ray -> commits -> summary, report, table
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvit_ray import cli
from fvit_ray.config import SAMPLE, Config, ConfigError
from fvit_ray.sinks import manifest


def main(argv: Sequence[str] | None = None, default: str = SAMPLE) -> int:
    """Run the command line; returns the exit code (2: refused, 1: failed or --strict)."""
    try:
        command = cli.parse(sys.argv[1:] if argv is None else argv, default)
        return run(command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


def run(command: cli.Command) -> int:
    """Run, resume or reprint; returns the exit code."""
    config, out = command.config, command.out
    document = manifest.read_run(out)
    if document is not None:
        manifest.check_same(out, document, config)
        if document["status"] == "complete" and not command.dry_run:
            print(f"{out} is finished: nothing to do")
            return conclude(out, document, command.strict)
    work = preflight(config)
    if command.dry_run:
        from fvit_ray.estimate import describe_plan

        print(describe_plan(config, work.total))
        return 0
    document = evaluate(command, work, document)
    return conclude(out, document, command.strict)


@dataclass(frozen=True)
class Work:
    """What the driver found out before Ray starts."""

    shards: list[tuple[str, str, int | None]]  # url, id, first so many samples
    total: int | None  # samples; None where no index tells
    specs: tuple[Any, ...]
    num_classes: int
    class_names: tuple[str, ...] | None


def preflight(config: Config) -> Work:
    """Refuse what cannot run, before any cluster starts."""
    from fvit_ray.data import shards
    from fvit_ray.evaluate import preprocess_of
    from fvit_ray.mapper import check_explainers
    from fvit_ray.models.load import ModelError, describe, locate_weights
    from fvit_ray.sample import CLASS_NAMES

    try:
        urls = shards.expand(config.data)
        work, total = limited(urls, shards.shard_ids(urls), config.limit)
        infos = [describe(name, config.random_weights) for name in config.models]
        for name in config.models if not config.random_weights else ():
            locate_weights(name)  # weights that cannot be had are missed now, not in an actor
        check_explainers(config)
    except (shards.ShardError, ModelError) as error:
        raise ConfigError(str(error)) from error
    classes = min(info.num_classes for info in infos)
    if config.data == SAMPLE and not config.random_weights:
        for info in infos:
            if info.num_classes != len(CLASS_NAMES):
                raise ConfigError(
                    f"models: {info.name} has {info.num_classes} classes, the sample has "
                    f"{len(CLASS_NAMES)}; name your shards with --data"
                )
    target = config.explain.target
    if isinstance(target, int) and target >= classes:
        raise ConfigError(
            f"explain.target: class {target} is out of range, the models have {classes} classes"
        )
    specs = tuple(dict.fromkeys(preprocess_of(config, info) for info in infos))
    names = next((info.class_names for info in infos if info.class_names), None)
    return Work(work, total, specs, classes, names)


def limited(
    urls: Sequence[str], ids: Sequence[str], limit: int | None
) -> tuple[list[tuple[str, str, int | None]], int | None]:
    """The shards that hold the first `limit` samples, and how many samples there are."""
    from fvit_ray.data.shards import count_samples, known_samples

    if limit is None:
        counts = [known_samples(url) for url in urls]
        known = None if None in counts else sum(c for c in counts if c is not None)
        return [(url, name, None) for url, name in zip(urls, ids, strict=True)], known
    chosen: list[tuple[str, str, int | None]] = []
    left = limit
    for url, name in zip(urls, ids, strict=True):
        if left <= 0:
            break
        count = count_samples(url)
        chosen.append((url, name, min(left, count)))
        left -= count
    return chosen, limit - max(0, left)


def evaluate(command: cli.Command, work: Work, document: dict[str, Any] | None) -> dict[str, Any]:
    """Stream what is not committed yet; returns the finished run document."""
    from fvit_ray.dist import cluster, resume
    from fvit_ray.plan import conditions

    config, out = command.config, command.out
    started = time.monotonic()
    if document is None:
        document = manifest.new_run(
            config,
            [url for url, *_ in work.shards],
            class_names=work.class_names,
            conditions=[c.columns() for c in conditions(config)],
            seconds=0.0,
        )
        _claim(out, document)
    resume.sweep(out)
    done = resume.committed(out, [name for _, name, _ in work.shards])
    if any(c.chunks for c in done.values()):
        print(f"resuming {out}: {sum(len(c.chunks) for c in done.values())} chunks are committed")
    tasks_left = [
        (url, name, limit, frozenset(done[name].chunks))
        for url, name, limit in work.shards
        if not done[name].complete
    ]
    if tasks_left:
        with cluster.connected(command.address):
            pool = cluster.pool(config.compute.device, config.compute.actors)
            if document["device"] not in (None, pool.device):
                raise ConfigError(
                    f"--out {out}: was computed on {document['device']}, this is {pool.device}; "
                    "equal rows are promised for one device type only; name another folder"
                )
            document["device"] = pool.device
            _consume(config, out, work, tasks_left, pool)
    document["seconds"] += time.monotonic() - started
    return finish(out, config, work, document)


def _claim(out: Path, document: dict[str, Any]) -> None:
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: not empty and holds no run.json; name another folder")
    try:
        manifest.write_run(out, document)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from error


def _consume(config: Config, out: Path, work: Work, tasks_left: Any, pool: Any) -> None:
    from ray.exceptions import RayError

    from fvit_ray.dist.progress import Progress
    from fvit_ray.dist.stream import ShardTask, stream

    tasks = [ShardTask(*task) for task in tasks_left]
    chunk = config.compute.chunk
    before = sum(len(t.skip) for t in tasks) * chunk if work.total else 0
    full = {name: limit for _, name, limit in work.shards}
    before += sum(full[name] or 0 for name in full if name not in {t.shard for t in tasks})
    first = work.shards[0][1]
    print(f"evaluating on {pool.actors} {pool.device} actor{'s' * (pool.actors > 1)} -> {out}")
    try:
        with Progress(work.total, min(before, work.total or before)) as progress:
            for row in stream(config, out, tasks, work.specs, work.num_classes, pool, first):
                progress.advance(row["samples"], row["errors"])
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        line = str(cause).strip().splitlines()[-1]
        raise ConfigError(f"{type(cause).__name__}: {line}; the same command resumes") from error


def finish(out: Path, config: Config, work: Work, document: dict[str, Any]) -> dict[str, Any]:
    """Count what is committed, write summary.csv, run.json and report.html."""
    from fvit_ray.dist import resume
    from fvit_ray.metrics.accuracy import summarise, write_summary
    from fvit_ray.plan import forwards
    from fvit_ray.report.html import write_report

    done = resume.committed(out, [name for _, name, _ in work.shards])
    if short := [name for name, shard in done.items() if not shard.complete]:
        raise ConfigError(f"shard {short[0]}: not all of its chunks were committed; run again")
    counts, meter = resume.totals(out)
    if work.total is not None and counts["samples"] < work.total:
        raise ConfigError(
            f"{counts['samples']} of {work.total} samples have rows; run again in a new folder"
        )
    _, naive = forwards(config, len(work.specs))
    good = counts["samples"] - counts["errors"]
    networks = sorted(meter["forwards"].keys() | naive.keys())
    document |= {
        **counts,
        "status": "complete",
        "finished": manifest.now(),
        "stages": dict(meter["seconds"]),
        "forwards": {
            n: {"done": meter["forwards"].get(n, 0), "naive": naive.get(n, 0) * good}
            for n in networks
        },
    }
    resolved = resume.resolved_conditions(out)
    document["conditions"] = [resolved.get(c["condition_id"], c) for c in document["conditions"]]
    manifest.write_run(out, document | {"status": "running"})
    write_summary(out / "summary.csv", summarise(out))
    manifest.write_run(out, document)
    write_report(out)
    return document


def conclude(out: Path, document: dict[str, Any], strict: bool) -> int:
    """Print the table, the errors and where the files are; returns the exit code."""
    from fvit_ray.report.table import show

    show(out)
    if document["errors"]:
        print(
            f"warning: {document['errors']} of {document['samples']} samples could not be "
            f"evaluated; their rows in {out}/metrics carry the reason in `error`"
        )
    print(f"report  {out}/report.html\nrows    {out}/metrics/*.parquet\nsummary {out}/summary.csv")
    return 1 if strict and document["errors"] else 0
