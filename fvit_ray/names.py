"""How radii and models are written where a name must be short and safe."""

from __future__ import annotations

from urllib.parse import quote


def eps_name(eps: float) -> str:
    """8/255 -> "eps8", 0.5/255 -> "eps0.5": radii in 1/255, for names and labels."""
    return f"eps{round(eps * 255, 4):g}"


def group_name(model: str) -> str:
    """A model's name as one HDF5 group: "/" and whatever is not plain is percent-escaped."""
    return quote(model, safe="")
