"""Milliseconds per sample of no DDS and of each denoiser, stage by stage, on this device.

uv run benchmarks/denoisers.py                    on a GPU: the paper's table 4, random weights
uv run benchmarks/denoisers.py --tiny             every path on scaled-down networks, on a CPU
uv run benchmarks/denoisers.py --sample --naive   the sample's trained networks; older style too

One sample is attacked (k steps of PGD on the classifier), smoothed in m trials, classified and
explained; all of it by `Evaluator`, as in a job, without Ray. Warm-up, then the median of repeated
runs of one fixed size, timed by the device's own events; building and compiling stand apart.
  alone      all stages of this row
  amortised  the attack shared by the 6 defences of the paper's table, the trials by all explainers
  TFLOP/s    FLOPs counted on the meta device over the time; % of a matrix product's, measured here
  paper      its table 4, on one A100-80GB (kandinsky22: a multi-step pipeline)
  floor, target   of an H100 at m = k = 10, explained by one gradient pass
  naive      one image, one trial at a time, float32, eager, U-Nets as diffusers runs them
  agrees     --agreement: the results of this configuration, judged as `agreement.py` does
`core share` is CPU time over wall time: 1 on an idle machine, less where others had the core.
Rows that were not run stay empty; one that runs out of memory or time says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adaptive
import agreement
import backbones
import measure
import plots
import record
import rowbench
import stages
import torch

from fvit_ray.config import SAMPLE_MODELS

COLUMNS = {
    "row": "denoiser",
    "ms": "alone ms",
    "amortised_ms": "amortised",
    **{f"{name}_ms": name for name in (*stages.STAGES, stages.OTHER)},
    "tflops": "TFLOP/s",
    "peak_share": "of peak",
    "peak_mib": "MiB",
    "joules": "J",
    "paper_ms": "paper",
    "floor_ms": "floor",
    "target_ms": "target",
    "naive_ms": "naive",
    "naive_ratio": "naive/alone",
    "agrees": "agrees",
    "error": "note",
}
ADAPTIVE = {
    "row": "denoiser",
    "kind": "what",
    "checkpoint": "checkpoint",
    "ms": "ms",
    "unit": "per",
    "peak_mib": "MiB",
    "rounds": "rounds",
    "passes": "passes",
    "error": "note",
}
TINY = {"batch": 2, "denoise_batch": 4, "trials": 2, "steps": 2, "repeats": 2}
CPU = {"batch": 5, "denoise_batch": 25, "trials": 10, "steps": 10, "repeats": 3}
GPU = {"batch": 32, "trials": 10, "steps": 10, "repeats": 5}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--denoisers", nargs="+", metavar="ROW", help=f"of {' '.join(backbones.ROWS)}; or other")
    add("--models", nargs="+", help="default vit_base_patch16_224; with --tiny sample_vit")
    add("--explainers", nargs="+", default=["vta"])
    add("--tiny", action="store_true", help="scaled-down networks, images an eighth as wide")
    add("--sample", action="store_true", help="trained: the sample's classifiers and denoisers")
    add("--trials", type=int, help="m")
    add("--steps", type=int, help="k, of PGD")
    add("--batch", type=int, help="images per block")
    add("--denoise-batch", type=_size, help="trials per call; on a GPU by image size; or auto")
    add("--explain-batch", type=_size, help="trials per call of the explainers")
    add("--dtype", default=None, help="default float16 on a GPU, float32 on a CPU")
    add("--compile", default="auto", choices=("auto", "on", "deterministic", "off"))
    add("--compute", nargs="*", default=[], metavar="NAME=VALUE", help="other fields of compute")
    add("--naive", type=int, nargs="?", const=2, default=0, metavar="N", help="images, older style")
    add("--agreement", type=int, default=0, metavar="N", help="images that judge the row's results")
    add("--adaptive", action="store_true", help="EOT gradients and certification, too")
    add("--eot", type=int, default=4, help="noise samples per step of --adaptive")
    add("--noise-samples", type=int, default=0, help="of certification; default 1000, tiny 20")
    add("--profile", action="store_true", help="torch's table of the slowest stage of each row")
    add("--repeats", type=int)
    add("--limit-seconds", type=float, default=300, help="of one row, compiling included")
    add("--device", default="auto", help="auto, cpu, cuda")
    add("--threads", type=int, default=1, help="of a CPU; 1 as in an actor")
    add("--keep", action="store_true", help="rows of an earlier file that are not run now stay")
    add("--name", help="of the results; default denoisers[-tiny|-sample]")
    add("--out", type=Path, default=record.RESULTS, help="folder of the results")
    return _filled(parser.parse_args(argv))


def _size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _filled(args: argparse.Namespace) -> argparse.Namespace:
    """Sizes that were not given, by kind of run."""
    cuda = record.resolve(args.device).type == "cuda"
    for name, value in (TINY if args.tiny else GPU if cuda else CPU).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    rows = backbones.SAMPLE_ROWS if args.sample else tuple(backbones.ROWS)
    args.denoisers = args.denoisers or list(rows)
    default = SAMPLE_MODELS if args.sample else ("sample_vit",) if args.tiny else None
    args.models = args.models or list(default or ("vit_base_patch16_224",))
    args.dtype = args.dtype or ("float16" if cuda and not args.tiny else "float32")
    args.noise_samples = args.noise_samples or (20 if args.tiny else 1000)
    kind = "-tiny" if args.tiny else "-sample" if args.sample else ""
    args.name = args.name or f"denoisers{kind}"
    return args


def compute_of(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `Config.compute`."""
    found: dict[str, Any] = {
        "dtype": args.dtype,
        "compile": args.compile,
        "micro_batch": args.batch,
        "chunk": args.batch,
        "denoise_batch": args.denoise_batch,
        "explain_batch": args.explain_batch or args.denoise_batch or args.batch,
    }
    return found | dict(pair.split("=", 1) for pair in args.compute)


def setting_of(args: argparse.Namespace, tiny: Path | None) -> rowbench.Setting:
    device = record.resolve(args.device)
    return rowbench.Setting(
        device=device,
        compute=compute_of(args),
        random_weights=not args.sample,
        trials=args.trials,
        steps=args.steps,
        explainers=tuple(args.explainers),
        repeats=args.repeats,
        limit=args.limit_seconds,
        naive=min(args.naive, args.batch),
        peak=measure.matmul_tflops(device, getattr(torch, args.dtype)),
        tiny=tiny,
    )


def run(args: argparse.Namespace, tiny: Path | None) -> int:
    setting = setting_of(args, tiny)
    more = {name: getattr(args, name) for name in ("models", "trials", "steps", "repeats", "eot")}
    more |= {"compute": setting.compute, "matmul_tflops": setting.peak, "tiny": args.tiny}
    more |= {"unit": "ms per sample", "paper_device": backbones.PAPER_DEVICE}
    energy = measure.energy(setting.device)
    more["energy"] = energy.source if energy else None
    head = record.facts(setting.device, args.dtype, setting.random_weights, **more)
    rows: list[record.Row] = []
    for model in args.models:
        for name in args.denoisers:
            rows += _row(name, model, setting, args)
            print(_progress(rows[-1]), file=sys.stderr, flush=True)
            # a run that is cut short leaves what it had
            record.save(args.name, head, finished(rows, args), args.out)
    rows = finished(rows, args)
    for model in args.models:
        print(f"\n{model}, m = {args.trials}, k = {args.steps}, {' '.join(args.explainers)}")
        print(record.table(of(rows, model, "evaluate"), COLUMNS))
        print("".join(f"\n{line}" for line in misses(of(rows, model, "evaluate"))))
        if more_rows := of(rows, model, "eot") + of(rows, model, "certify"):
            print("\n" + record.table(more_rows, ADAPTIVE))
    print(f"\n{record.summary(head)}; matrix product {setting.peak:.3g} TFLOP/s")
    paths = record.save(args.name, head, rows, args.out)
    paths.append(plots.denoisers(rows, head, paths[0].with_suffix(".png")))
    for path in paths:
        print(f"wrote {path}")
    return int(any("ms" in row for row in rows) is False)


def misses(rows: Sequence[record.Row]) -> list[str]:
    """A line for each row that takes longer than its target: its costliest stage."""
    lines = []
    for row in rows:
        if (target := row.get("target_ms")) and row.get("ms", 0) > target:
            stage, share = row["slowest"], 100 * row["slowest_peak_share"]
            lines.append(
                f"{row['row']}: {row['ms']:.1f} ms, target {target:g}; most of it {stage}, "
                f"{row[f'{stage}_ms']:.1f} ms at {share:.0f} % of a matrix product's rate"
            )
    return lines


def of(rows: Sequence[record.Row], model: str, kind: str) -> list[record.Row]:
    return [row for row in rows if (row["model"], row["kind"]) == (model, kind)]


def finished(rows: Sequence[record.Row], args: argparse.Namespace) -> list[record.Row]:
    """The rows in the catalogue's order, empty where they were not run (or, with --keep, kept)."""
    have = {(row["model"], row["row"]) for row in rows}
    earlier = _earlier(args) if args.keep else []
    kept = [row for row in earlier if (row["model"], row["row"]) not in have and "ms" in row]
    have |= {(row["model"], row["row"]) for row in kept}
    names = list(dict.fromkeys([*(() if args.sample else backbones.ROWS), *args.denoisers]))
    whole = not (args.tiny or args.sample)
    empty = [
        {"kind": "evaluate", "model": model, "row": name}
        | {f"{key}_ms": value for key, value in vars(backbones.known(name, whole)).items()}
        for model in args.models
        for name in names
        if (model, name) not in have and name in backbones.ROWS
    ]
    place = {name: at for at, name in enumerate(names)}
    return sorted([*rows, *kept, *empty], key=lambda row: place.get(row["row"], len(place)))


def _earlier(args: argparse.Namespace) -> list[record.Row]:
    slug = record.slug(record.device_name(record.resolve(args.device)))
    path = args.out / f"{args.name}-{slug}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def _row(
    name: str, model: str, setting: rowbench.Setting, args: argparse.Namespace
) -> list[record.Row]:
    row, evaluator, batch = rowbench.bench(name, model, setting)
    rows = [row]
    defended = evaluator is not None and bool(evaluator.networks.denoisers)
    if args.profile and evaluator is not None and batch is not None and row.get("slowest"):
        text = rowbench.profile(evaluator, batch, row["slowest"], setting)
        path = args.out / f"{args.name}-{record.slug(name)}-{row['slowest']}-profile.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    del evaluator, batch
    rowbench.release()
    if defended and "ms" in row:
        if args.agreement:
            row |= agreed(name, model, setting, args.agreement)
        if args.adaptive:
            sizes = adaptive.Sizes(args.eot, args.noise_samples, args.batch)
            rows += adaptive.rows(name, model, setting, sizes)
    return rows


def agreed(name: str, model: str, setting: rowbench.Setting, count: int) -> record.Row:
    """`agreement.py`'s numbers of this very configuration; `agrees`: yes, or the broken limits."""
    config = setting.config(name, model)
    try:
        with rowbench.limited(setting.limit):
            batches = [(config.seed, rowbench.pictures(config, count))]
            found = agreement.gate_row(config, setting.device, batches, None)
    except Exception as error:  # out of memory beside the reference: the row's time stands
        return {"agrees": rowbench.line(error)}
    kept = ("images", "trial", "mean", "psnr", "x0", "cosine")
    verdict = {"agrees": f"fails {found['fails']}" if found["fails"] else "yes"}
    return verdict | {f"agreement_{key}": found[key] for key in kept}


def _progress(row: record.Row) -> str:
    spent = f"{row['ms']:.1f} ms" if "ms" in row else row.get("error", "not run")
    return f"{row['model']} {row['row']} {row['kind']}: {spent}"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if record.resolve(args.device).type == "cpu":
        torch.set_num_threads(args.threads)
    try:
        if not args.tiny:
            return run(args, None)
        with tempfile.TemporaryDirectory() as folder:
            return run(args, backbones.write_tiny(Path(folder)))
    except (ValueError, OSError) as error:
        print(f"denoisers: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
