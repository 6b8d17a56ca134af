"""Batch -> Results: the one place where the order of stages and the sharing of work is written.

    attack (once per model, eps) -> denoised trials (once per model, eps, denoiser)
        -> classify -> aggregate (each way) -> explain

A notebook may call it without Ray:

    evaluator = Evaluator(config)
    results = evaluator(batch)
    results.rows()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fvit_ray import registry, rng
from fvit_ray.batch import Batch
from fvit_ray.config import Config
from fvit_ray.data.preprocess import Preprocess
from fvit_ray.mapper import Mapper
from fvit_ray.models.load import Classifier, ModelInfo, load_classifier
from fvit_ray.names import eps_name, group_name
from fvit_ray.plan import Condition, conditions, trial_set
from fvit_ray.results import Meter, Outcome, Results, join, to_uint8
from fvit_ray.settings import Defence
from fvit_ray.smoothing.aggregate import Aggregate, aggregate_probs
from fvit_ray.smoothing.fvit import pad, purpose_of, sample_trials
from fvit_ray.smoothing.schedule import Step, resolve

EXAMPLE_TRIALS = 3


def preprocess_of(config: Config, info: ModelInfo) -> Preprocess:
    """How an image becomes the input of this classifier (protocol section 9)."""
    return Preprocess(config.preprocess, info.input_size, info.crop_pct, info.interpolation)


class Evaluator:
    """Builds the networks of a configuration once; then maps batches to results."""

    def __init__(self, config: Config, device: str | None = None) -> None:
        self.config = config
        self.device = torch.device(device or resolve_device(config))
        self.dtype: torch.dtype = getattr(torch, config.compute.dtype)
        self.image_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.meter = Meter()
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        options["random_weights"] = config.random_weights
        self.models: dict[str, Classifier] = {
            name: load_classifier(name, **options) for name in config.models
        }
        self.specs = {
            name: preprocess_of(config, model.info) for name, model in self.models.items()
        }
        sets = dict.fromkeys(trial_set(d) for d in config.defences if d.denoiser != "none")
        networks = {
            key: registry.load("denoiser", key[0])(key[1], **options)
            for key in dict.fromkeys((d.denoiser, d.weights) for d in sets)
        }
        self.denoisers = {d: networks[d.denoiser, d.weights] for d in sets}
        self.steps: dict[Defence, Step] = {
            d: resolve(d.schedule, d.sigma, self.denoisers[d].alphas_cumprod) for d in sets
        }
        self.mapper = Mapper(config, self.dtype, self.meter)
        self.conditions = conditions(config)

    def columns(self, condition: Condition) -> dict[str, Any]:
        """CONDITION's columns with the resolved schedule."""
        columns = condition.columns()
        if condition.defended:
            key = trial_set(condition.defence)
            step = self.steps[key]
            columns |= {"sigma": step.sigma, "sigma_pixel": step.sigma_pixel, "t": step.t}
            if not self.denoisers[key].latent:
                columns["noise_space"] = "pixel"
        return columns

    def __call__(self, batch: Batch | Mapping[Preprocess, Batch], examples: int = 0) -> Results:
        """Evaluate every condition on a batch (or on one batch per preprocessing, same samples).

        examples: keep the images of the first so many samples for the report.
        """
        batches = dict.fromkeys(self.specs.values(), batch) if isinstance(batch, Batch) else batch
        size, total = self.config.compute.micro_batch, len(next(iter(batches.values())))
        blocks = []
        for at in range(0, total, size):
            block = {spec: self._cut(b, at) for spec, b in batches.items()}
            blocks.append(self._block(block, max(0, examples - at)).first(total - at))
        return join(blocks)

    def _cut(self, batch: Batch, at: int) -> Batch:
        """Exactly micro_batch samples from `at` on, on the device; the last block is padded.

        A kernel's last bits change with the shape of its batch (and PGD's sign amplifies them), so
        everything is computed on whole blocks, in which a sample's place never changes.
        """
        size = self.config.compute.micro_batch
        keys = batch.keys[at : at + size]
        keys += tuple(f"padding {i}" for i in range(size - len(keys)))
        image = pad(batch.image[at : at + size], size).to(self.device, self.image_dtype)
        # strides choose kernels, too: one memory format, whoever made the batch
        image = image.contiguous()
        return Batch(keys, image, pad(batch.label[at : at + size], size).to(self.device))

    def _block(self, batches: dict[Preprocess, Batch], examples: int) -> Results:
        """Evaluate one block of micro_batch samples."""
        first = next(iter(batches.values()))
        kept: dict[str, Tensor] = {}
        outcomes: dict[str, Outcome] = {}
        clean_trials: dict[tuple[Preprocess, Defence], Tensor] = {}

        def keep(name: str, images: Tensor) -> None:
            if examples:
                kept[name] = to_uint8(images[:examples])

        for model_name, model in self.models.items():
            spec = self.specs[model_name]
            batch = batches[spec]
            keep(f"clean/{group_name(model_name)}", batch.image)
            for eps in self.config.attack.eps:
                x = self._attack(model, batch, eps)
                if eps:
                    keep(f"adversarial/{group_name(model_name)}/{eps_name(eps)}", x)
                for defence, cells in self._by_trials(model_name, eps).items():
                    if defence is None:
                        trials = x.unsqueeze(1)
                    elif eps == 0 and (spec, defence) in clean_trials:
                        trials = clean_trials[spec, defence]
                    else:
                        trials = self._trials(defence, x, batch.keys, eps)
                        if eps == 0:
                            clean_trials[spec, defence] = trials
                    if defence is not None:
                        for cell in cells:
                            keep(f"denoised/{cell.condition_id}", trials[:, :EXAMPLE_TRIALS])
                    outcomes |= self._judge(model, trials, batch, cells)
        order = {c.condition_id: outcomes[c.condition_id] for c in self.conditions}
        columns = {c.condition_id: self.columns(c) for c in self.conditions}
        return Results(first.keys, first.label.cpu(), columns, order, kept)

    def _by_trials(self, model: str, eps: float) -> dict[Defence | None, list[Condition]]:
        """The conditions of (model, eps), grouped by the set of trials they share."""
        groups: dict[Defence | None, list[Condition]] = {}
        for c in self.conditions:
            if c.model == model and c.eps == eps:
                groups.setdefault(trial_set(c.defence) if c.defended else None, []).append(c)
        return groups

    def _logits(self, model: Classifier, x: Tensor, size: int) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W), at least float32, in padded calls."""

        def call(part: Tensor) -> Tensor:
            self.meter.count("classifier", len(part))
            out: Tensor = model(part.to(self.dtype))
            return out

        # a kernel's last bits change with its batch, so every call has one shape
        logits = torch.cat([call(pad(part, size))[: len(part)] for part in x.split(size)])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _attack(self, model: Classifier, batch: Batch, eps: float) -> Tensor:
        """The attacked images of (model, eps), shared by every defence."""
        attack, image, label = self.config.attack, batch.image, batch.label
        if eps == 0:
            return image
        with self.meter.stage("attack"):
            if attack.label == "prediction":
                with torch.inference_mode():
                    label = self._logits(model, image, len(image)).argmax(1)
                label = label.clone()
            noise = None
            if attack.random_start:
                shape = image.shape[1:]
                start = rng.uniform(
                    self.config.seed, batch.keys, f"attack/{eps_name(eps)}", 1, shape, self.device
                )
                noise = start.squeeze(1).to(self.image_dtype)

            def call(x: Tensor) -> Tensor:
                self.meter.count("classifier", len(x))
                self.meter.count("classifier backward", len(x))
                out: Tensor = model(x.to(self.dtype))
                return out

            x_adv: Tensor = registry.load("attack", attack.name)(
                call,
                image,
                label,
                eps=eps,
                step_size=attack.step_size or eps / 5,
                steps=attack.steps,
                noise=noise,
            )
            return x_adv

    def _trials(self, defence: Defence, x: Tensor, keys: tuple[str, ...], eps: float) -> Tensor:
        """Denoised trials (B, m, 3, H, W) in [0, 1], shared by aggregations and explainers."""
        with self.meter.stage("denoise"), torch.inference_mode():
            return sample_trials(
                self.denoisers[defence],
                x,
                keys,
                step=self.steps[defence],
                trials=defence.trials,
                seed=self.config.seed,
                purpose=purpose_of(eps, defence.common_noise),
                batch=self.config.compute.denoise_batch,
                denoise=defence.denoise and defence.denoiser != "identity",
                smooth=defence.smooth,
                noise_space=defence.noise_space,
                on_call=self.meter.count,
            )

    def _judge(
        self, model: Classifier, trials: Tensor, batch: Batch, cells: list[Condition]
    ) -> dict[str, Outcome]:
        """Classify the trials (B, m, 3, H, W) once, aggregate them each way, and explain them."""
        compute, label = self.config.compute, batch.label
        size = compute.denoise_batch if cells[0].defended else compute.micro_batch
        with self.meter.stage("classify"), torch.inference_mode():
            logits = self._logits(model, trials.flatten(0, 1), size).unflatten(0, trials.shape[:2])
            outcomes = {}
            for cell in cells:
                total = aggregate_probs(logits, cell.aggregation or "mean")
                outcomes[cell.condition_id] = _outcome(total, label)
        if self.config.explainers:
            with self.meter.stage("explain"):
                self.mapper.explain(model, trials, logits, batch, cells, outcomes)
        return {name: outcome.cpu() for name, outcome in outcomes.items()}


def _outcome(total: Aggregate, label: Tensor) -> Outcome:
    prob_label = total.probs.gather(1, label.unsqueeze(1)).squeeze(1)
    prob_pred = total.probs.gather(1, total.pred.unsqueeze(1)).squeeze(1)
    top5 = (total.top5 == label.unsqueeze(1)).any(1)
    return Outcome(total.pred, prob_label, prob_pred, top5, total.valid)


def resolve_device(config: Config) -> str:
    """`auto` -> cuda where there is a GPU, else cpu."""
    if config.compute.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.compute.device
