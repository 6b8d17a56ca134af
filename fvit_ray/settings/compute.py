"""Where and how the arithmetic runs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fvit_ray.settings.base import Frozen, MaybeCount


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
