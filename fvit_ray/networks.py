"""The networks of a configuration, and what one (classifier, radius) makes of a block of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fvit_ray import registry, rng
from fvit_ray.batch import Batch
from fvit_ray.config import Config
from fvit_ray.denoisers.base import Denoiser
from fvit_ray.models.load import Classifier, load_classifier
from fvit_ray.names import eps_name
from fvit_ray.plan import trial_set
from fvit_ray.results import Meter
from fvit_ray.settings import Defence
from fvit_ray.smoothing.fvit import pad, purpose_of, sample_trials
from fvit_ray.smoothing.schedule import Step, resolve


class Networks:
    """Classifiers and denoisers, built once, and how images go through them."""

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
        sets = dict.fromkeys(trial_set(d) for d in config.defences if d.denoiser != "none")
        built: dict[tuple[str | int | None, ...], Any] = {}
        self.denoisers: dict[Defence, Denoiser] = {}
        for d in sets:
            key = (d.denoiser, d.weights, d.resolution, d.mode)
            if key not in built:
                build = registry.load("denoiser", d.denoiser)
                built[key] = build(d.weights, **options, **d.build_options)
            self.denoisers[d] = built[key]
        self.steps: dict[Defence, Step] = {
            d: resolve(d.schedule, d.sigma, self.denoisers[d].alphas_cumprod) for d in sets
        }

    def part(self, x: Tensor, at: int) -> Tensor:
        """micro_batch rows of x (n, ...) from `at` on, padded with zeros, on the device."""
        size = self.config.compute.micro_batch
        return pad(x[at : at + size], size).to(self.device)

    def block(self, batch: Batch, at: int) -> Batch:
        """Exactly micro_batch samples from `at` on, on the device; the last block is padded.

        A kernel's last bits change with the shape of its batch (and PGD's sign amplifies them), so
        everything is computed on whole blocks, in which a sample's place never changes.
        """
        size = self.config.compute.micro_batch
        keys = batch.keys[at : at + size]
        keys += tuple(f"padding {i}" for i in range(size - len(keys)))
        # strides choose kernels, too: one memory format, whoever made the batch
        image = self.part(batch.image, at).to(self.image_dtype).contiguous()
        others = (batch.mask, batch.other, batch.other_mask)
        rest = (None if x is None else self.part(x, at) for x in others)
        return Batch(keys, image, self.part(batch.label, at), *rest)

    def logits(self, model: Classifier, x: Tensor, size: int | None = None) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W), at least float32, in padded calls of `size`."""

        def call(part: Tensor) -> Tensor:
            self.meter.count("classifier", len(part))
            out: Tensor = model(part.to(self.dtype))
            return out

        # a kernel's last bits change with its batch, so every call has one shape
        size = size or len(x)
        logits = torch.cat([call(pad(part, size))[: len(part)] for part in x.split(size)])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def attack(self, model: Classifier, batch: Batch, eps: float) -> Tensor:
        """The attacked images (B, 3, H, W) of (model, eps), shared by every defence."""
        attack, image, label = self.config.attack, batch.image, batch.label
        if eps == 0:
            return image
        with self.meter.stage("attack"), torch.inference_mode(False), torch.enable_grad():
            if attack.label == "prediction":
                with torch.no_grad():
                    label = self.logits(model, image).argmax(1)
            noise = None
            if attack.random_start:
                shape = image.shape[1:]
                start = rng.uniform(
                    self.config.seed, batch.keys, f"attack/{eps_name(eps)}", 1, shape, self.device
                )
                noise = start.squeeze(1).to(self.image_dtype)

            def call(x: Tensor, step: int = 0) -> Tensor:
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

    def trials(self, defence: Defence, x: Tensor, keys: Sequence[str], eps: float) -> Tensor:
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


class Sight:
    """What a classifier sees of a block at one radius, made when it is first looked at.

    clean_trials: trials of the clean images by defence, shared by classifiers of one preprocessing
    """

    def __init__(
        self,
        networks: Networks,
        model: Classifier,
        batch: Batch,
        eps: float,
        clean_trials: dict[Defence, Tensor],
    ) -> None:
        self.networks, self.model, self.batch, self.eps = networks, model, batch, eps
        self._trials = {} if eps else clean_trials

    @cached_property
    def attacked(self) -> Tensor:
        """(B, 3, H, W); the clean images at eps = 0."""
        return self.networks.attack(self.model, self.batch, self.eps)

    def trials(self, defence: Defence | None) -> Tensor:
        """(B, m, 3, H, W) of a `trial_set`; None: the attacked images as one trial."""
        if defence is None:
            return self.attacked.unsqueeze(1)
        if defence not in self._trials:
            made = self.networks.trials(defence, self.attacked, self.batch.keys, self.eps)
            self._trials[defence] = made
        return self._trials[defence]

    def defend(self, defence: Defence, copies: Tensor, keys: Sequence[str]) -> Tensor:
        """Fresh trials (N, m, 3, H, W) of changed copies, under the noise of the images `keys`."""
        return self.networks.trials(defence, copies, keys, self.eps)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W) in one call of just their number."""
        return self.networks.logits(self.model, images)


def resolve_device(config: Config) -> str:
    """`auto` -> cuda where there is a GPU, else cpu."""
    if config.compute.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.compute.device
