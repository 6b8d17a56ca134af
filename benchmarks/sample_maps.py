"""How well every explanation method finds the garment, for the sample's three trained models.

uv run benchmarks/sample_maps.py            200 images, under 4 minutes on two cores
uv run benchmarks/sample_maps.py --limit 1000 --dds-methods vta gradcam rollout

Maps of the predicted class against the garments' silhouettes: clean and under PGD, without DDS
(every method) and with it (a few). A method's foreground is where its map exceeds its own mean.

`over random` is the mIoU minus that of the `random` control on the same images under the same
condition, with its paired bootstrap 95 % interval over images; the verdict is "beats random" where
the interval lies above zero, else "fails". n: images whose map says something (a constant map has
no ranking) and so does the control's. `upside down`: the mIoU of the negated maps. `centre prior`
is one Gaussian for all images: the garments are centred, so a method must beat it to show that it
looks at the image; `over centre` is the difference from it, with its interval in the CSV.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import images
import numpy as np
import record
import torch
from torch import Tensor

from fvit_ray.cli import build
from fvit_ray.config import SAMPLE, SAMPLE_MODELS, Config
from fvit_ray.evaluate import Evaluator
from fvit_ray.metrics.segmentation import bootstrap, segmentation, totals
from fvit_ray.plan import conditions
from fvit_ray.registry import REGISTRY

CONTROL, CENTRE, CORRECT = "random", "centre prior", "correct"
COLUMNS = {
    "method": "method",
    "n": "n",
    "miou": "mIoU",
    "pixel_accuracy": "pixel acc.",
    "map": "mAP",
    "f1": "F1",
    "pointing": "pointing",
    "over_random": "over random",
    "interval": "95 % interval",
    "over_centre": "over centre",
    "upside_down": "upside down",
    "verdict": "verdict",
}
Scored = Mapping[str, Any]
Parts = dict[str, dict[str, Scored]]


def scored(maps: Tensor, masks: Tensor) -> dict[str, Any]:
    """Per-image columns (n,) of maps (n, H, W) as arrays; those of the negated maps as `-name`."""
    columns = segmentation(maps, masks) | {
        f"-{name}": column for name, column in segmentation(-maps, masks).items()
    }
    return {name: column.numpy() for name, column in columns.items()}


def centre_prior(size: tuple[int, int]) -> Tensor:
    """(H, W) Gaussian around the image's centre, its standard deviation a quarter of the side."""
    y, x = (torch.linspace(-2, 2, side, dtype=torch.float64) for side in size)
    return torch.exp(-(y[:, None] ** 2 + x**2) / 2)


def judged(columns: Scored, control: Scored, centre: Scored | None, seed: int) -> record.Row:
    """Scores in percent, against the control and the centre prior, and the verdict."""
    own, gain = totals(columns), bootstrap(columns, control, seed)["miou"]
    keep = columns["valid"] & control["valid"]
    row: record.Row = {"n": int(keep.sum()), "constant": int((~columns["valid"]).sum())}
    row |= {name: _percent(value) for name, value in own._asdict().items() if name != "n"}
    negated = {name[1:]: column for name, column in columns.items() if name.startswith("-")}
    row["upside_down"] = _percent(totals(negated).miou)
    row |= dict(zip(("over_random", "low", "high"), map(_percent, gain), strict=True))
    known = gain.low is not None
    row["interval"] = f"[{row['low']:+.1f}, {row['high']:+.1f}]" if known else None
    row["verdict"] = "beats random" if gain.low is not None and gain.low > 0 else "fails"
    if centre is not None:
        names = ("over_centre", "over_centre_low", "over_centre_high")
        ends = map(_percent, bootstrap(columns, centre, seed)["miou"])
        row |= dict(zip(names, ends, strict=True))
    return row


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def rows_of(columns: Mapping[str, Scored], seed: int) -> list[record.Row]:
    """A row per method of one condition, the centre prior last."""
    rows = []
    for name in (name for name in columns if name not in (CORRECT, CENTRE)):
        row = {"method": name, **judged(columns[name], columns[CONTROL], columns[CENTRE], seed)}
        rows.append(row | ({"verdict": "control"} if name == CONTROL else {}))
    rows.append({"method": CENTRE, **judged(columns[CENTRE], columns[CONTROL], None, seed)})
    return rows


def config_of(
    args: argparse.Namespace, defence: str | dict[str, Any], methods: list[str]
) -> Config:
    block = min(25, args.limit)
    sizes = {"micro_batch": block, "chunk": block, "explain_batch": block}
    tree = {
        "models": args.models,
        "random_weights": args.random_weights,
        "attack": {"eps": [0, args.eps], "steps": args.attack_steps},
        "defences": [defence],
        "explainers": list(dict.fromkeys([*methods, CONTROL])),
        "explain": {"target": "predicted", "steps": args.steps},
        "seed": args.seed,
        "compute": {"device": args.device, "denoise_batch": min(50, 2 * block), **sizes},
    }
    return build(tree)


def score_part(config: Config, start: int, stop: int) -> tuple[Parts, dict[str, float]]:
    """Evaluate images start..stop: per-image columns by condition and method; seconds by stage."""
    evaluator = Evaluator(config)
    if evaluator.networks.device.type == "cpu":
        torch.set_num_threads(1)  # as in an actor
    batches = {
        spec: images.load(SAMPLE, spec, stop, 10, start) for spec in evaluator.specs.values()
    }
    results, found = evaluator(batches), {}
    for condition in evaluator.conditions:
        outcome = results.outcomes[condition.condition_id]
        masks = batches[evaluator.specs[condition.model]].mask
        maps = {name: saliency.double() for name, saliency in outcome.saliency.items()}
        maps[CENTRE] = centre_prior((masks.shape[1], masks.shape[2])).expand(masks.shape)
        columns = {name: scored(saliency, masks) for name, saliency in maps.items()}
        columns[CORRECT] = {CORRECT: (outcome.pred == results.label).numpy()}
        found[condition.condition_id] = columns
    return found, dict(evaluator.meter.seconds)


def evaluated(
    configs: Sequence[Config], limit: int, processes: int
) -> tuple[list[record.Row], dict[str, float]]:
    """The rows of every condition, and seconds by stage, summed over the processes."""
    block = configs[0].compute.micro_batch
    step = math.ceil(limit / processes / block) * block
    cuts = [(at, min(at + step, limit)) for at in range(0, limit, step)]
    tasks = [(config, *cut) for config in configs for cut in cuts]
    cells = [(config, condition) for config in configs for condition in conditions(config)]
    with pool(processes) as run:
        parts = list(run(score_part, *zip(*tasks, strict=True)))
        whole = [
            joined([p[c.condition_id] for p, _ in parts if c.condition_id in p]) for _, c in cells
        ]
        found = list(run(rows_of, whole, [config.seed for config, _ in cells]))
    stages: Counter[str] = Counter()
    for _, seconds in parts:
        stages.update(seconds)
    rows = []
    for (config, condition), columns, rows_here in zip(cells, whole, found, strict=True):
        common = {
            "model": condition.model,
            "weights": "random" if config.random_weights else "trained",
            "images": "attacked" if condition.eps else "clean",
            "eps": condition.eps,
            **{key: condition.columns()[key] for key in ("denoiser", "sigma", "trials")},
            "accuracy": 100 * float(columns[CORRECT][CORRECT].mean()),
        }
        rows += [common | row for row in rows_here]
    return rows, {name: round(seconds, 1) for name, seconds in stages.items()}


def joined(parts: Sequence[Mapping[str, Scored]]) -> dict[str, Scored]:
    """The columns of consecutive images, end to end."""
    return {
        name: {key: np.concatenate([part[name][key] for part in parts]) for key in columns}
        for name, columns in parts[0].items()
    }


@contextmanager
def pool(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` over processes, which start afresh; over none at all where one is asked for."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as executor:
        yield executor.map


def show(rows: Sequence[record.Row]) -> None:
    """A table per model, image kind and defence."""
    keys = ("model", "weights", "images", "denoiser", "accuracy")
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        model, weights, kind, denoiser, accuracy = cell
        trusted = "" if weights == "trained" else ", RANDOM WEIGHTS (says nothing about methods)"
        defence = "no DDS" if denoiser == "none" else f"DDS with {denoiser}"
        print(f"\n{model}, {kind} images, {defence}: accuracy {accuracy:.1f} %{trusted}")
        here = [row for row in rows if tuple(row[key] for key in keys) == cell]
        print(record.table(here, COLUMNS), flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = list(REGISTRY["explainer"])
    choice: dict[str, Any] = {"choices": methods, "metavar": "METHOD"}
    parser.add_argument("--limit", type=int, default=200, help="images, classes in turn")
    parser.add_argument("--models", nargs="+", default=list(SAMPLE_MODELS), choices=SAMPLE_MODELS)
    parser.add_argument("--methods", nargs="+", default=methods, **choice)
    parser.add_argument(
        "--dds-methods", nargs="*", default=["vta", "gradcam"], help="with DDS, too", **choice
    )
    parser.add_argument("--eps", default="8/255", help="radius of the attack, pixel units")
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--denoiser", default="sample_ddpm")
    parser.add_argument("--sigma", type=float, default=0.25, help="schedule carlini")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16, help="of integrated_gradients")
    parser.add_argument("--random-weights", action="store_true", help="a sanity check")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--processes", type=int, help="of one thread each; default: one per core, 1 with a GPU"
    )
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the results")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args, started = parse(argv), time.perf_counter()
    dds = {"schedule": "carlini", "sigma": args.sigma, "trials": args.trials}
    device = record.resolve(args.device)
    processes = args.processes or (1 if device.type == "cuda" else record.cores())
    try:
        configs = [config_of(args, "none", args.methods)]
        if args.dds_methods:
            configs.append(config_of(args, {"denoiser": args.denoiser, **dds}, args.dds_methods))
        more = {"data": SAMPLE, "limit": args.limit, "unit": "percent", "processes": processes}
        more["configs"] = [config.canonical() for config in configs]
        head = record.facts(device, configs[0].compute.dtype, args.random_weights, **more)
        head["threads"] = 1 if device.type == "cpu" else None
        rows, head["stages"] = evaluated(configs, args.limit, processes)
    except (ValueError, OSError) as error:
        print(f"sample_maps: {error}", file=sys.stderr)
        return 2
    show(rows)
    head["seconds"] = round(time.perf_counter() - started, 1)
    head["cpu_seconds"] = round(sum(os.times()[:4]), 1)  # ours and the processes' that have ended
    took = f"{head['seconds']} s ({head['cpu_seconds']} s of CPU)"
    print(f"\n{args.limit} images, seed {args.seed}, {took}; {record.summary(head)}")
    for path in record.save("sample_maps", head, rows, args.out):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
