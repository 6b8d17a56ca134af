"""A whole run: check everything, stream the shards through the actors, write the report.

parse -> already finished? reprint
      -> preflight (models known, shards found, plan) -> Ray -> commits -> summary, report, table
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit_ray import cli
from fvit_ray.config import SAMPLE, Config, ConfigError
from fvit_ray.sinks import manifest

if TYPE_CHECKING:  # imports torch, which a refused configuration does not wait for
    from fvit_ray.dist.preflight import Work


def main(argv: Sequence[str] | None = None, default: str = SAMPLE) -> int:
    """Run the command line; returns the exit code (2: refused, 1: failed or --strict)."""
    sys.path.insert(0, os.getcwd())  # a user's own package.module:function may lie here
    try:
        command = cli.parse(sys.argv[1:] if argv is None else argv, default)
        return run(command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full or read-only disk; what is committed stays
        print(f"error: {error}; the same command resumes", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    finally:
        sys.path.pop(0)


def run(command: cli.Command) -> int:
    """Run, resume or reprint; returns the exit code."""
    config, out = command.config, command.out
    document = manifest.read_run(out)
    if document is not None and (out / "metrics").exists():
        manifest.check_same(out, document, config)
        if document["status"] == "complete" and not command.dry_run:
            print(f"{out} is finished: nothing to do")
            return conclude(command, document)
    elif document is not None:
        document = None  # nothing was committed, so the folder may become another run's
    from fvit_ray.dist.preflight import preflight

    work = preflight(config, command.address)
    if command.dry_run:
        from fvit_ray.estimate import describe_plan

        print(describe_plan(config, work.total))
        return 0
    with manifest.locked(out):
        document = evaluate(command, work, document)
    return conclude(command, document)


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
        manifest.write_run(out, document)
    elif document["shards"] != [url for url, *_ in work.shards]:
        raise ConfigError(f"--out {out}: was begun on other shards than {config.data} now names")
    manifest.note_versions(document)
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
            document |= {"device": pool.device, "device_name": pool.name}
            manifest.write_run(out, document)
            _consume(config, out, work, tasks_left, pool)
    document["seconds"] += time.monotonic() - started
    return finish(out, config, work, document)


def _consume(config: Config, out: Path, work: Work, tasks_left: Any, pool: Any) -> None:
    from ray.exceptions import RayError

    from fvit_ray.dist import resume
    from fvit_ray.dist.progress import Progress
    from fvit_ray.dist.stream import ShardTask, stream

    tasks = [ShardTask(*task) for task in tasks_left]
    before = resume.totals(out)[0]["samples"]
    first = work.shards[0][1]
    print(f"evaluating on {pool.actors} {pool.device} actor{'s' * (pool.actors > 1)} -> {out}")
    try:
        with Progress(work.total, before) as progress:
            for row in stream(config, out, tasks, work.specs, work.num_classes, pool, first):
                progress.advance(row["samples"], row["errors"])
    except RayError as error:
        line = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise ConfigError(f"a worker failed: {line}") from None


def finish(out: Path, config: Config, work: Work, document: dict[str, Any]) -> dict[str, Any]:
    """Count what is committed, write summary.csv, run.json and report.html."""
    from fvit_ray.dist import resume
    from fvit_ray.plan import forwards

    done = resume.committed(out, [name for _, name, _ in work.shards])
    if short := [name for name, shard in done.items() if not shard.complete]:
        raise ConfigError(
            f"shard {short[0]}: not all of its chunks are in {out}; --out must be storage that "
            "every node sees; run again"
        )
    counts, meter = resume.totals(out)
    _, naive = forwards(config, len(work.specs))
    good = counts["samples"] - counts["errors"]
    # relevance passes go through rules, not through a network
    passes = meter["forwards"].keys() | naive.keys()
    networks = sorted(name for name in passes if not name.startswith("relevance"))
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
    manifest.write_run(out, document)
    write_outputs(out)
    return document


def write_outputs(out: Path) -> None:
    """Write summary.csv, scores.csv and report.html from what the folder holds."""
    from fvit_ray import schema
    from fvit_ray.metrics.accuracy import summarise, write_summary
    from fvit_ray.metrics.scores import summarise_scores
    from fvit_ray.report.html import write_report

    write_summary(out / "summary.csv", summarise(out))
    if lines := summarise_scores(out):
        write_summary(out / "scores.csv", lines, schema.SCORES)
    write_report(out)


def conclude(command: cli.Command, document: dict[str, Any]) -> int:
    """Print the tables, the errors and where the files are; returns the exit code."""
    from fvit_ray.report.table import show

    out = command.out
    if not ((out / "summary.csv").exists() and (out / "report.html").exists()):
        write_outputs(out)  # the run ended between its last commit and these
    show(out)
    if document["errors"]:
        print(
            f"warning: {document['errors']} of {document['samples']} samples could not be "
            f"evaluated; their rows in {out}/metrics carry the reason in `error`"
        )
    print(f"report  {out}/report.html\nrows    {out}/metrics/*.parquet\nsummary {out}/summary.csv")
    if (out / "scores.csv").exists():
        print(f"scores  {out}/scores/*.parquet, {out}/scores.csv")
    if command.export is not None:
        from fvit_ray.sinks.export import export

        for path in export(out, command.export):
            print(f"export  {path}")
    return 1 if command.strict and document["errors"] else 0
