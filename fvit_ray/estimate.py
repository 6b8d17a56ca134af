"""The plan in words: conditions, forward passes, and time and disk estimated from a short trial."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch

from fvit_ray.config import Config
from fvit_ray.denoisers.base import Denoiser
from fvit_ray.evaluate import Evaluator
from fvit_ray.flops import describe_flops, image_passes, planned
from fvit_ray.plan import conditions, forwards, smoothed

GZIP_SHARE = 0.8  # float16 maps, gzip: measured 0.6-0.9 of their raw size
ROW_BYTES = 60  # a Parquet row after compression, measured on the sample


def describe_plan(config: Config, total: int | None) -> str:
    """What would run, in lines; times each network on one batch of this machine."""
    evaluator = Evaluator(config)
    specs = set(evaluator.specs.values())
    shared, naive = forwards(config, len(specs))
    cells = conditions(config)
    n = total or 1
    head = f"{n:,} samples" if total else "per sample (the shards have no index)"
    lines = [f"{config.name}: {head}, {len(cells)} conditions"]
    lines += [f"  {c.condition_id}" for c in cells]
    lines.append("image passes      planned        without shared work")
    for network in sorted(naive):
        lines.append(f"  {network:<20}{shared[network] * n:>10,}  {naive[network] * n:>14,}")
    lines += describe_flops(planned(config, len(specs)), n)
    kind = evaluator.networks.device.type
    seconds = _seconds(evaluator, shared) * n
    slots = torch.cuda.device_count() or os.cpu_count() or 1
    actors = config.compute.actors or slots
    lines.append(
        f"time  about {_span(seconds / min(actors, slots))} on {actors} "
        f"{kind} actor{'s' * (actors > 1)} of this machine, start-up not counted"
    )
    size = max(spec.size[0] * spec.size[1] for spec in specs)
    maps = len(cells) * len(config.explainers) * size * 2 * GZIP_SHARE * config.maps
    lines.append(f"disk  about {(maps + ROW_BYTES * len(cells)) * n / 1e6:,.1f} MB")
    return "\n".join(lines)


def _seconds(evaluator: Evaluator, passes: Counter[str]) -> float:
    """Seconds per sample of `passes`, timed on one call of each network (on a CPU, of 2 images)."""
    threads, on_gpu = torch.get_num_threads(), evaluator.networks.device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)  # as in an actor
    try:
        compute, spent = evaluator.config.compute, 0.0
        share = {name: 1 / len(evaluator.networks.models) for name in evaluator.networks.models}
        for name, model in evaluator.networks.models.items():
            size = compute.micro_batch if on_gpu else min(2, compute.micro_batch)
            shape = (size, 3, *evaluator.specs[name].size)
            x = torch.rand(shape, device=evaluator.networks.device, dtype=evaluator.networks.dtype)
            forward = _time(partial(model, x)) / size
            both = _time(partial(_input_gradient, model, x)) / size
            plain = passes["classifier"] - passes["classifier backward"]
            spent += share[name] * (plain * forward + passes["classifier backward"] * both)
        images = smoothed(evaluator.config, len(set(evaluator.specs.values())))
        for defence, denoiser in evaluator.networks.denoisers.items():
            step = evaluator.networks.steps[defence]
            if not passes["denoiser"] or step.t is None:
                continue
            size = compute.denoise_batch if on_gpu else min(2, compute.denoise_batch)
            spec = next(iter(evaluator.specs.values()))
            side = denoiser.resolution or spec.size[0]
            x = torch.rand(
                (size, 3, side, side),
                device=evaluator.networks.device,
                dtype=evaluator.networks.dtype,
            )
            each = _stages(denoiser, x, step.t)
            done = image_passes(defence, denoiser.latent)
            spent += images[defence] * sum(n * each[name] for name, n in done.items()) / size
    finally:
        torch.set_num_threads(threads)
    return spent


def _input_gradient(model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(model(x).float().sum(), x)[0]


def _stages(denoiser: Denoiser, x: torch.Tensor, t: int) -> dict[str, float]:
    """Seconds of one call of each network of a denoiser on images x."""
    with torch.no_grad():
        z = denoiser.encode(x)
        x0 = denoiser.predict(z, t).x0
        return {
            "encoder": _time(partial(denoiser.encode, x)),
            "denoiser": _time(partial(denoiser.predict, z, t)),
            "decoder": _time(partial(denoiser.decode, x0)),
        }


def _time(call: Callable[[], object]) -> float:
    """The second of two runs, in seconds: the first one warms up."""
    for _ in range(2):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken = time.perf_counter() - started
    return taken


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
