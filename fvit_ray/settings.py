"""The groups of a configuration's fields: attack, defence, explanation, scores, computing."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from fvit_ray import registry
from fvit_ray.names import eps_name

Schedule = Literal[
    "paper", "paper_no_post_noise", "paper_unclipped", "carlini", "chain", "diffpure"
]


def none(value: Any) -> Any:
    """Accept the word none where None is meant."""
    return None if value in ("none", "null") else value


def _number(value: Any) -> Any:
    """Accept 8/255 beside 0.03137."""
    if isinstance(value, str) and re.fullmatch(r"\s*[\d.]+\s*/\s*[\d.]+\s*", value):
        top, bottom = (Fraction(part.strip()) for part in value.split("/"))
        if not bottom:
            raise ValueError(f"{value!r} divides by zero")
        return float(top / bottom)
    return value


def listed(value: Any) -> Any:
    """Accept one value where a list is meant."""
    return value if isinstance(value, list | tuple) else [value]


Number = Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
MaybeNumber = Annotated[Number | None, BeforeValidator(none)]
MaybeCount = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(none)]
Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
Radii = Annotated[tuple[Number, ...], BeforeValidator(listed)]
Aggregations = Annotated[tuple[Literal["mean", "vote"], ...], BeforeValidator(listed)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attack(Frozen):
    """L-inf attack on the undefended classifier, transferred to the defended one."""

    name: str = Field("pgd", description="attack")
    eps: Radii = Field((0.0, 4 / 255, 8 / 255), description="radii in pixel units, [0, 1]")
    steps: int = Field(10, ge=1, description="gradient steps")
    step_size: MaybeNumber = Field(None, description="pixel units; eps/5 if not given")
    random_start: bool = Field(True, description="start uniformly inside the ball")
    label: Literal["truth", "prediction"] = Field("truth", description="label moved away from")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.location("attack", name)
        return name

    @field_validator("eps")
    @classmethod
    def _pixel_units(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        for radius in eps:
            if not 0 <= radius < 1:
                raise ValueError(
                    f"{radius:g} is not a radius in pixel units [0, 1); write {radius:g}/255?"
                )
        # a radius is named by its 255ths, so 8/255 and 0.031372549 are one
        if not eps or len({eps_name(radius) for radius in eps}) != len(eps):
            raise ValueError("name at least one radius, each once; 0 means not attacked")
        return eps

    @field_validator("step_size")
    @classmethod
    def _positive(cls, size: float | None) -> float | None:
        if size is not None and not 0 < size <= 1:
            raise ValueError(f"{size:g} is not in pixel units (0, 1]; leave it out for eps/5")
        return size


class Corruption(Frozen):
    """One of ImageNet-C's corruptions, made of every image as it is decoded (protocol 8)."""

    name: Annotated[str | None, BeforeValidator(none)] = Field(
        None, description="of ImageNet-C, e.g. defocus_blur; none for clean images"
    )
    severity: int = Field(3, ge=1, le=5, description="1 to 5")
    frost: Annotated[str | None, BeforeValidator(none)] = Field(
        None, description="folder of frost's photographs, where the package that has them is not"
    )
    stored: bool = Field(False, description="through JPEG of quality 85, as the released files")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            registry.location("corruption", name)
        return name


DEFAULT_SIGMA: dict[str, float | None] = {"carlini": 0.25, "diffpure": None}


class Defence(Frozen):
    """What stands before the classifier: nothing (`denoiser: none`), or DDS with m trials."""

    denoiser: str = Field("none", description="none, a registered denoiser, or module:function")
    weights: Annotated[str | None, BeforeValidator(none)] = Field(
        None, description="folder, file or hub repository of the denoiser"
    )
    resolution: MaybeCount = Field(None, description="side of its images; none: its own")
    mode: Annotated[Literal["pipeline", "null_class"] | None, BeforeValidator(none)] = Field(
        None,
        description="pipeline: kandinsky22's image-to-image, 30 guided steps; null_class: what "
        "ldm is fed instead of a zero vector",
    )
    schedule: Schedule = Field("carlini", description="how sigma becomes a step t")
    sigma: MaybeNumber = Field(
        None,
        description="noise level; pixel std for carlini (0.25) and diffpure (its step 149), "
        "Hu's delta otherwise (8/255)",
    )
    trials: int = Field(10, ge=1, description="m, noisy copies per image")
    aggregation: Aggregations = Field(("mean",), description="mean of probabilities, vote")
    map_aggregation: Literal["mean", "max", "drop_lowest_max"] = Field(
        "mean", description="how the trials' maps become one"
    )
    denoise: bool = Field(True, description="Algorithm 1's flag: run the denoiser")
    smooth: bool = Field(True, description="Algorithm 1's flag: add noise")
    noise_space: Literal["latent", "pixel"] = Field("latent", description="of latent denoisers")
    common_noise: bool = Field(False, description="same noise on clean and attacked copies")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        value = {"denoiser": value} if isinstance(value, str) else value
        if isinstance(value, dict) and value.get("sigma") in (None, "none", "null"):
            schedule = value.get("schedule", "carlini")
            default = DEFAULT_SIGMA.get(schedule, 8 / 255)
            return value | {"sigma": None if value.get("denoiser", "none") == "none" else default}
        return value

    @field_validator("denoiser")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "none":
            registry.location("denoiser", name)
        return name

    @field_validator("aggregation")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one of mean, vote, each once")
        return value

    @property
    def build_options(self) -> dict[str, Any]:
        """What the denoiser's `build` is given beside its weights, where it is set."""
        given = {"resolution": self.resolution, "mode": self.mode}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        owner = {"pipeline": "kandinsky22", "null_class": "ldm"}.get(self.mode or "")
        if owner and ":" not in self.denoiser and self.denoiser != owner:
            raise ValueError(f"mode: {self.denoiser!r} has no {self.mode}; {owner} has it")
        if self.mode == "pipeline" and self.schedule in ("chain", "diffpure"):
            raise ValueError(f"mode: pipeline walks its own chain, not that of {self.schedule!r}")
        if self.resolution and self.denoiser.startswith(("sample_", "none")):
            raise ValueError(f"resolution: {self.denoiser!r} takes images as they are")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.denoiser == "none":
            return self
        if self.sigma is None:
            return self
        if self.sigma <= 0:
            raise ValueError(f"sigma: {self.sigma:g} must be positive; `smooth: false` adds none")
        elif self.schedule in ("carlini", "diffpure"):
            if self.sigma > 1:
                raise ValueError(
                    f"sigma: {self.sigma:g} is a std in pixels [0, 1]; write {self.sigma:g}/255?"
                )
        elif (last := 36.4 / 255) < self.sigma:
            raise ValueError(
                f"sigma: {self.sigma:g} is past 36.4/255 = {last:.3f}, where schedule "
                f"{self.schedule!r} saturates (t* = N); lower it or use carlini"
            )
        if not self.smooth and self.trials > 1 and self.schedule not in ("chain", "diffpure"):
            raise ValueError("trials: without smooth every trial is the same; set trials to 1")
        return self


class Explain(Frozen):
    """Choices of the explanation methods that the literature leaves open."""

    target: int | Literal["predicted", "label", "per_trial"] = Field(
        "predicted", description="explained class: of the aggregate, the label, or an index"
    )
    start_layer: int = Field(1, ge=0, description="first block of rollout, vta, lrp_rollout")
    row: Literal["mean", "cls"] = Field("mean", description="of distilled DeiT: CLS and DIST, CLS")
    lrp_rules: Literal["A", "B"] = Field("A", description="relevance rules of lrp")
    gamma: float = Field(0.0, ge=0, description="of attnlrp's Linear layers; 0: epsilon rule")
    steps: int = Field(32, ge=1, description="of integrated_gradients")

    @field_validator("target")
    @classmethod
    def _is_class(cls, target: int | str) -> int | str:
        if isinstance(target, int) and target < 0:
            raise ValueError(f"{target} is not a class index")
        return target


METRICS = (
    "segmentation",
    "perturbation",
    "consistency",
    "saco",
    "insertion_deletion",
    "sensitivity_n",
    "class_specificity",
)


class Scores(Frozen):
    """How faithful the maps are: the metrics, and what they leave open (protocol 4 to 6)."""

    metrics: Names = Field((), description=f"of {', '.join(METRICS)}")
    image: Literal["denoised", "attacked", "clean"] = Field(
        "denoised",
        description="whose pixels are removed; denoised: the condition's own trials, which without "
        "DDS are the attacked image",
    )
    classifier: Literal["undefended", "defended"] = Field(
        "undefended", description="that sees images with removed pixels"
    )
    mask_value: Literal["black", "mean"] = Field("black", description="of removed pixels")
    groups: int = Field(10, ge=2, description="K of saco")
    subsets: int = Field(100, ge=2, description="random sets of each size of sensitivity_n")

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS:
                raise ValueError(f"{name!r} is none of {', '.join(METRICS)}")
        if len(set(names)) != len(names):
            raise ValueError("name each metric once")
        return names

    @model_validator(mode="after")
    def _denoised_once(self) -> Self:
        if self.classifier == "defended" and self.image == "denoised":
            raise ValueError(
                "classifier: defended denoises what it is given; set scores.image to attacked or "
                "clean"
            )
        return self


class Compute(Frozen):
    """Where and how; micro_batch and dtype are part of a result's identity, the rest is not."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="of the classifier's and denoiser's arithmetic"
    )
    micro_batch: int = Field(25, ge=1, description="images per compute block; calls are padded")
    denoise_batch: int = Field(50, ge=1, description="trials per call of denoiser and classifier")
    explain_batch: int = Field(25, ge=1, description="images per call of the explainers")
    chunk: int = Field(25, ge=1, description="samples per commit; a multiple of micro_batch")
    actors: MaybeCount = Field(None, description="default: one per GPU, or per CPU")

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.chunk % self.micro_batch:
            raise ValueError(
                f"chunk: {self.chunk} must be a multiple of micro_batch ({self.micro_batch}), "
                "so that a sample's place in its block does not depend on the chunk"
            )
        return self
