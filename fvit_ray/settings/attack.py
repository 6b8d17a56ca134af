"""The attack."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fvit_ray import registry
from fvit_ray.names import eps_name
from fvit_ray.settings.base import Frozen, MaybeNumber, Radii


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
