"""What will run, before it runs: conditions, shared work and forward counts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from fvit_ray.config import Config
from fvit_ray.denoisers.kandinsky22 import PIPELINE_PASSES
from fvit_ray.explainers import Options, passes
from fvit_ray.metrics.insertion import STEPS
from fvit_ray.metrics.perturbation import FRACTIONS, ORDERS
from fvit_ray.metrics.sensitivity_n import FRACTIONS as SETS
from fvit_ray.names import eps_name
from fvit_ray.settings import Defence
from fvit_ray.smoothing.schedule import linear_alphas_cumprod, resolve

Forwards = Counter[str]  # network -> image passes
REMOVALS = ("perturbation", "saco", "insertion_deletion", "sensitivity_n")


@dataclass(frozen=True)
class Condition:
    """One cell of the grid: a classifier, a radius, a defence and one aggregation of its trials.

    `condition_id` is readable, safe in file names, and unique within a configuration.
    """

    condition_id: str
    model: str
    eps: float
    defence: Defence
    aggregation: Literal["mean", "vote"] | None  # None without DDS
    config: Config

    @property
    def defended(self) -> bool:
        return self.defence.denoiser != "none"

    def columns(self) -> dict[str, Any]:
        """CONDITION's columns; `t` and `sigma_pixel` are the resolved schedule's to fill in."""
        config, d = self.config, self.defence
        dds = {
            "weights": d.weights,
            "resolution": d.resolution,
            "mode": d.mode,
            "schedule": d.schedule,
            "sigma": d.sigma,
            "sigma_pixel": None,
            "t": None,
            "trials": d.trials,
            "aggregation": self.aggregation,
            "map_aggregation": d.map_aggregation,
            "denoise": d.denoise and d.denoiser != "identity",
            "smooth": d.smooth,
            "noise_space": d.noise_space,
            "common_noise": d.common_noise,
        }
        return {
            "condition_id": self.condition_id,
            "model": self.model,
            "corruption": config.corruption.name,
            "severity": config.corruption.severity if config.corruption.name else None,
            "attack": config.attack.name if self.eps else "none",
            "eps": self.eps,
            "attack_label": config.attack.label,
            "denoiser": d.denoiser,
            **(dds if self.defended else dict.fromkeys(dds)),
            "dtype": config.compute.dtype,
            "micro_batch": config.compute.micro_batch,
            "seed": config.seed,
        }


def _defence_name(defence: Defence) -> str:
    if defence.denoiser == "none":
        return "none"
    sigma = "auto" if defence.sigma is None else f"{defence.sigma:.4g}"
    parts = [defence.denoiser, defence.schedule, f"s{sigma}", f"m{defence.trials}"]
    parts += [f"{defence.resolution}px"] * (defence.resolution is not None)
    parts += [defence.mode] if defence.mode else []
    parts += ["nodenoise"] * (not defence.denoise) + ["nosmooth"] * (not defence.smooth)
    parts += ["pixelnoise"] * (defence.noise_space == "pixel")
    parts += ["commonnoise"] * defence.common_noise
    parts += [defence.map_aggregation] * (defence.map_aggregation != "mean")
    return "-".join(parts)


def trial_set(defence: Defence) -> Defence:
    """The part of a defence that its denoised trials depend on: the key under which they are
    shared by both class aggregations, all map aggregations and every explainer."""
    plain = Defence.model_fields
    return defence.model_copy(
        update={name: plain[name].default for name in ("aggregation", "map_aggregation")}
    )


def conditions(config: Config) -> list[Condition]:
    """Every condition, in the order in which tables show them."""
    names = [_defence_name(d) for d in config.defences]
    # defences that differ in nothing named (in their weights, say) are told apart by their place
    names = [f"{n}-{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    found = [
        Condition(
            re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join(filter(None, parts))),
            model,
            eps,
            defence,
            aggregation,
            config,
        )
        for model in config.models
        for name, defence in zip(names, config.defences, strict=True)
        for aggregation in (defence.aggregation if defence.denoiser != "none" else (None,))
        for eps in config.attack.eps
        if (parts := (model, eps_name(eps), name, aggregation))
    ]
    # names that differ only in what is not safe are told apart by a hash of the whole
    twice = Counter(c.condition_id for c in found)
    return [
        replace(c, condition_id=f"{c.condition_id}-{_digest(c)}")
        if twice[c.condition_id] > 1
        else c
        for c in found
    ]


def _digest(condition: Condition) -> str:
    whole = (condition.model, condition.eps, condition.defence, condition.aggregation)
    return hashlib.blake2b(repr(whole).encode(), digest_size=4).hexdigest()


def _passes(defence: Defence) -> int:
    """Denoiser passes per trial: one, or the length of the reverse chain."""
    if defence.denoiser == "identity" or not defence.denoise:
        return 0
    step = resolve(defence.schedule, defence.sigma, linear_alphas_cumprod())
    if step.t is None:
        return 0
    if defence.mode == "pipeline":
        return PIPELINE_PASSES
    return step.t + 1 if step.chain else 1


def explain_options(config: Config) -> Options:
    """The explainers' options of a configuration."""
    return Options(**config.explain.model_dump(exclude={"target"}), seed=config.seed)


def forwards(config: Config, clean_groups: int = 1) -> tuple[Forwards, Forwards]:
    """Image passes per sample: (with shared work, as separate runs).

    `clean_groups`: how many different preprocessings the classifiers need; classifiers of one
    preprocessing share the trials of the clean image. Aggregations that predict the same class
    share their maps, which is assumed here. Without sharing, every (condition, explainer) attacks,
    denoises, classifies and explains by itself, as the older code does.
    """
    shared: Forwards = Counter()
    naive: Forwards = Counter()
    steps, options = config.attack.steps, explain_options(config)
    forward, backward = passes(config.explainers, options)
    sets = {trial_set(d) for d in config.defences if d.denoiser != "none"}
    undefended = any(d.denoiser == "none" for d in config.defences)
    seen = undefended + sum(d.trials for d in sets)  # copies classified and explained
    for _, eps in product(config.models, config.attack.eps):
        shared["classifier"] += (steps if eps else 0) + seen * (1 + forward)
        shared["classifier backward"] += (steps if eps else 0) + seen * backward
        shared["denoiser"] += sum(d.trials * _passes(d) for d in sets) if eps else 0
    if 0 in config.attack.eps:
        shared["denoiser"] += clean_groups * sum(d.trials * _passes(d) for d in sets)
    scored = _scored(config)
    shared.update(scored)
    naive.update(scored)
    alone = [passes([name], options) for name in config.explainers] or [(0, 0)]
    for condition in conditions(config):
        d = condition.defence
        trials, attack = d.trials if condition.defended else 1, steps if condition.eps else 0
        for one_forward, one_backward in alone:
            naive["classifier"] += attack + trials * (1 + one_forward)
            naive["classifier backward"] += attack + trials * one_backward
            naive["denoiser"] += trials * _passes(d) if condition.defended else 0
    return shared, naive


def removal_copies(config: Config) -> int:
    """Masked copies per image and map that the metrics classify."""
    scores = config.scores
    return sum(
        {
            "perturbation": len(ORDERS) * len(FRACTIONS),
            "saco": scores.groups + 1,
            "insertion_deletion": 2 * (STEPS + 1),
            "sensitivity_n": scores.subsets * len(SETS) + 1,
        }.get(metric, 0)
        for metric in scores.metrics
    )


def _scored(config: Config) -> Forwards:
    """Image passes per sample of the metrics that remove pixels."""
    passes: Forwards = Counter()
    scores = config.scores
    for condition in conditions(config):
        d = condition.defence
        defended = condition.defended and scores.classifier == "defended"
        many = condition.defended and (defended or scores.image == "denoised")
        copies = removal_copies(config) * len(config.explainers)
        # the unmasked image is classified anew where the condition's prediction is another's
        seen = scores.image == "denoised" or (scores.image == "attacked" and not condition.defended)
        copies += "perturbation" in scores.metrics and not seen
        passes["classifier"] += copies * (d.trials if many else 1)
        passes["denoiser"] += copies * d.trials * _passes(d) if defended else 0
    return passes
