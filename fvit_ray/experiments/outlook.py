"""What a study would take, before anything runs: runs, image passes, arithmetic and GPU hours."""

from __future__ import annotations

from collections.abc import Sequence

from fvit_ray.config import ConfigError
from fvit_ray.experiments.load import DATA, Experiment, placeholders, without_weights
from fvit_ray.experiments.merge import Shared, shared_runs
from fvit_ray.experiments.published import published
from fvit_ray.experiments.savings import planned, sentences
from fvit_ray.flops import Flops, in_units
from fvit_ray.flops import planned as flops_of
from fvit_ray.plan import conditions
from fvit_ray.report.text import count

# dense bfloat16 peak by the makers' data sheets, FLOP/s; and the share of it that is reckoned with
PEAK = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "l4": 121e12}
SHARE = 0.3


def outlook(
    wanted: Sequence[Experiment], scale: str, gpus: int | str = 1, gpu: str = "a100"
) -> str:
    """The plan in lines; needs neither data nor weights. Raises `ConfigError` for another GPU."""
    if gpu not in PEAK:
        raise ConfigError(f"--gpu {gpu}: is none of {', '.join(PEAK)}")
    if not str(gpus).isdigit() or not int(gpus):
        raise ConfigError(f"--gpus: takes a count, got {gpus!r}")
    runs = shared_runs(wanted, scale)
    lines, total = [], 0.0
    for shared in runs:
        config, n = shared.config, shared.config.limit or 1
        each: Flops = flops_of(config)
        arithmetic = n * sum(each.values())
        total += arithmetic
        lines.append(
            f"  {config.name}: n = {count(n)}, {len(conditions(config))} conditions, "
            f"{in_units(arithmetic)}, {_hours(arithmetic, gpu):,.1f} GPU hours"
        )
    hours = _hours(total, gpu)
    head = [f"{scale}: {', '.join(e.name for e in wanted)} in {len(runs)} runs"]
    tail = [
        f"In all {in_units(total)}: about {hours:,.0f} GPU hours, {hours / int(gpus):,.1f} hours "
        f"on {gpus} {gpu}, reckoned at {100 * SHARE:g} % of its dense bfloat16 peak "
        f"({PEAK[gpu] / 1e12:g} TFLOP/s); reading, decoding and start-up not counted.",
        *_costly(runs, total),
        *_missing(wanted),
        *sentences(planned(wanted, runs)),
    ]
    return "\n".join([*head, *lines, *tail])


def _hours(flops: float, gpu: str) -> float:
    return flops / (SHARE * PEAK[gpu]) / 3600


def _costly(runs: Sequence[Shared], total: float) -> list[str]:
    """The share of the full-size Kandinsky pipeline, which the paper itself calls too slow."""
    from fvit_ray.flops import denoiser_flops
    from fvit_ray.models.load import describe
    from fvit_ray.plan import smoothed

    spent = 0.0
    for shared in runs:
        config = shared.config
        size = describe(config.models[0], config.random_weights).input_size
        for defence, images in smoothed(config).items():
            if defence.denoiser == "kandinsky22":
                each = denoiser_flops(defence, size).of(defence)
                spent += (config.limit or 1) * images * sum(each.values())
    if not spent:
        return []
    paper = published()["table4"]["values"]["vit"]["kandinsky22"]["ms"]
    return [
        f"Kandinsky's pipeline alone is {100 * spent / total:.0f} % of it (the paper: {paper:g} ms "
        "per sample); leave it out by a file of your own with --config of eval_imagenet.py."
    ]


def _missing(wanted: Sequence[Experiment]) -> list[str]:
    data = sorted({f"{DATA[name]} SHARDS" for e in wanted for name in placeholders(e)})
    weights = sorted({f"--weights.{name} PATH" for e in wanted for name in without_weights(e)})
    return [f"Still to be named: {' '.join([*data, *weights])}"] if data or weights else []
