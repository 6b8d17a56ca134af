"""What will run, before it runs: conditions, shared work and forward counts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from fvit_ray.config import Config
from fvit_ray.explainers import Options, passes
from fvit_ray.metrics.insertion import STEPS
from fvit_ray.metrics.perturbation import FRACTIONS, ORDERS
from fvit_ray.metrics.sensitivity_n import FRACTIONS as SETS
from fvit_ray.names import eps_name
from fvit_ray.passes import attack_passes, certify_passes, padded, smoothing_passes
from fvit_ray.passes import denoiser_passes as denoiser_passes
from fvit_ray.settings import Defence
from fvit_ray.settings.attack import Through

Forwards = Counter[str]  # network -> image passes
ADAPTIVE = "adaptive"  # what a condition attacked through its defence is called
_ONE: Forwards = Counter({"classifier": 1})
REMOVALS = ("perturbation", "saco", "insertion_deletion", "sensitivity_n")


@dataclass(frozen=True)
class Condition:
    """One cell of the grid: a classifier, a radius, a defence and one aggregation of its trials,
    attacked through the classifier or through all of it (`through` is None where eps is 0).

    `condition_id` is readable, safe in file names, and unique within a configuration.
    """

    condition_id: str
    model: str
    eps: float
    defence: Defence
    aggregation: Literal["mean", "vote"] | None  # None without DDS
    config: Config
    through: Through | None = None

    @property
    def adaptive(self) -> bool:
        return self.through == "defence"

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
            "through": self.through,
            "eot": config.attack.eot if self.adaptive else None,
            "gradient": _gradient(config) if self.adaptive else None,
            "denoiser": d.denoiser,
            **(dds if self.defended else dict.fromkeys(dds)),
            "dtype": config.compute.arithmetic,
            "micro_batch": config.compute.micro_batch,
            "seed": config.seed,
        }


def _gradient(config: Config) -> str:
    return "none" if config.attack.name == "square" else config.attack.gradient


def defence_name(defence: Defence) -> str:
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
        update={name: plain[name].default for name in ("aggregation", "map_aggregation", "explainers")}
    )


def explained(config: Config, defence: Defence) -> tuple[str, ...]:
    """The configuration's methods that explain what is behind a defence."""
    chosen = defence.explainers
    return tuple(n for n in config.explainers if chosen is None or n in chosen)


def explained_sets(config: Config) -> dict[Defence | None, tuple[str, ...]]:
    """`trial_set` (None: the image without DDS) -> the methods that explain its trials."""
    found: dict[Defence | None, tuple[str, ...]] = {}
    for d in config.defences:
        key = trial_set(d) if d.denoiser != "none" else None
        mine = (*found.get(key, ()), *explained(config, d))
        found[key] = tuple(n for n in config.explainers if n in mine)
    return found


def conditions(config: Config) -> list[Condition]:
    """Every condition, in the order in which tables show them."""
    names = [defence_name(d) for d in config.defences]
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
            through,
        )
        for model in config.models
        for name, defence in zip(names, config.defences, strict=True)
        for aggregation in (defence.aggregation if defence.denoiser != "none" else (None,))
        for at, threat in enumerate(config.attack.through)
        for eps in config.attack.eps
        # clean images are no attack's, and the undefended classifier has one attack
        if not at or (eps and defence.denoiser != "none")
        for through in (threat_of(threat, eps, defence),)
        if (parts := (model, eps_name(eps), name, aggregation, ADAPTIVE * (through == "defence")))
    ]
    # names that differ only in what is not safe are told apart by a hash of the whole
    twice = Counter(c.condition_id for c in found)
    return [
        replace(c, condition_id=f"{c.condition_id}-{_digest(c)}")
        if twice[c.condition_id] > 1
        else c
        for c in found
    ]


def threat_of(threat: Through, eps: float, defence: Defence) -> Through | None:
    """What an attack goes through: None on clean images, the classifier where there is no more."""
    if not eps:
        return None
    return threat if defence.denoiser != "none" else "classifier"


def _digest(condition: Condition) -> str:
    whole: tuple[Any, ...] = (condition.model, condition.eps, condition.defence)
    whole += (condition.aggregation, *[ADAPTIVE] * condition.adaptive)
    return hashlib.blake2b(repr(whole).encode(), digest_size=4).hexdigest()


def explain_options(config: Config) -> Options:
    """The explainers' options of a configuration."""
    return Options(**config.explain.model_dump(exclude={"target"}), seed=config.seed)


def forwards(config: Config, clean_groups: int = 1) -> tuple[Forwards, Forwards]:
    """Image passes per sample: (with shared work, as separate runs).

    A block of micro_batch samples costs micro_batch times as much, what its calls are padded with
    among it; where that is no whole number per sample it is rounded up. `block_forwards` is exact.

    `clean_groups`: how many different preprocessings the classifiers need; classifiers of one
    preprocessing share the trials of the clean image. Aggregations that predict the same class
    share their maps, which is assumed here. Without sharing, every (condition, explainer) attacks,
    denoises, classifies and explains by itself, as the older code does.
    """
    size = config.compute.micro_batch
    block = block_forwards(config, clean_groups)
    shared: Forwards = Counter({name: -(-count // size) for name, count in block.items()})
    naive, options = _scored(config), explain_options(config)
    for condition in conditions(config):
        d = condition.defence
        alone = [passes([name], options) for name in explained(config, d)] or [(0, 0)]
        one: Forwards = Counter()
        if condition.eps:
            through = d if condition.adaptive else None
            one += attack_passes(config.attack, through, 1, 1)
        one += smoothing_passes(d, 1, d.trials, 1) if condition.defended else _ONE
        for _ in alone:
            naive.update(one)
        for forward, backward in alone:
            trials = d.trials if condition.defended else 1
            naive.update({"classifier": trials * forward, "classifier backward": trials * backward})
        if condition.defended and not condition.eps:
            naive.update(certify_passes(config.certify, d, 1))
    return shared, naive


def block_forwards(config: Config, clean_groups: int = 1) -> Forwards:
    """Image passes of a block of micro_batch samples with shared work; see `forwards`.

    Certificates count in full: abstaining early saves some of it.
    """
    compute, options = config.compute, explain_options(config)
    size, found = compute.micro_batch, Forwards()
    for _, eps in product(config.models, config.attack.eps):
        for through in victims(config) if eps else ():
            found += attack_passes(config.attack, through, size, batch_of(config, through))
        for d, names in explained_sets(config).items():
            forward, backward = passes(names, options)
            trials = size * d.trials if d else size
            seen = padded(trials, compute.explain_batch)
            judged = padded(trials, batch_of(config, d))
            one = Counter({"classifier": judged + seen * forward})
            one["classifier backward"] = seen * backward
            for _ in config.attack.through if d and eps else (None,):
                found += one
    for smooth, images in smoothed(config, clean_groups).items():
        passed = smoothing_passes(smooth, size, smooth.trials, batch_of(config, smooth))
        found += Counter({n: images * c for n, c in passed.items() if n != "classifier"})
    found["classifier"] += size * _scored(config)["classifier"]
    for d in explained_sets(config):
        if d is None:
            continue
        for network, count in certify_passes(config.certify, d, batch_of(config, d)).items():
            # the trials of an image are each classifier's
            copies = len(config.models) if network == "classifier" else clean_groups
            found[network] += size * copies * count
    return found


def batch_of(config: Config, defence: Defence | None) -> int:
    """Images per call of the classifier: of a defence's trials, or of a block."""
    compute = config.compute
    if defence is None:
        return compute.micro_batch
    return compute.denoise_batches.get(defence.backbone, compute.denoise_batch)


def victims(config: Config) -> list[Defence | None]:
    """What is attacked at every (model, eps): the classifier (None), or a `trial_set` with it."""
    found: list[Defence | None] = []
    for d in config.defences:
        if d.denoiser == "none" or "classifier" in config.attack.through:
            found.append(None)
        if d.denoiser != "none" and "defence" in config.attack.through:
            found.append(trial_set(d))
    return list(dict.fromkeys(found))


def smoothed(config: Config, clean_groups: int = 1) -> Counter[Defence]:
    """Images smoothed per sample, each in d.trials copies, by `trial_set` d, with shared work.

    clean_groups: see `forwards`
    """
    sets = dict.fromkeys(trial_set(d) for d in config.defences if d.denoiser != "none")
    radii = sum(eps > 0 for eps in config.attack.eps)
    attacked = len(config.models) * radii * len(config.attack.through)
    images = Counter(dict.fromkeys(sets, attacked + clean_groups * (0 in config.attack.eps)))
    for condition in conditions(config):
        if condition.defended and config.scores.classifier == "defended":
            images[trial_set(condition.defence)] += _scored_copies(condition)
    return images


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


def _scored_copies(condition: Condition) -> int:
    """Masked copies per image of all maps of a condition, and what they are compared with."""
    config, scores = condition.config, condition.config.scores
    maps = len(explained(config, condition.defence))
    copies = removal_copies(config) * maps
    # the unmasked image is classified anew where the condition's prediction is another's
    seen = scores.image == "denoised" or (scores.image == "attacked" and not condition.defended)
    return copies + (maps > 0 and "perturbation" in scores.metrics and not seen)


def _scored(config: Config) -> Forwards:
    """Image passes per sample of the metrics that remove pixels."""
    passes: Forwards = Counter()
    scores = config.scores
    for condition in conditions(config):
        d = condition.defence
        defended = condition.defended and scores.classifier == "defended"
        many = condition.defended and (defended or scores.image == "denoised")
        copies = _scored_copies(condition)
        passes["classifier"] += copies * (d.trials if many else 1)
        passes["denoiser"] += copies * d.trials * denoiser_passes(d) if defended else 0
    return passes
