"""A tiny classifier trained in a second, and images that it knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, SIDE = 5, 8
KEYS = tuple(f"image {i}" for i in range(64))


def _data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 8, 8) float64: a coloured pattern per class, and much noise."""
    g = torch.Generator().manual_seed(0)
    patterns = torch.rand(CLASSES, 3, SIDE, SIDE, generator=g)
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=g)
    x = 0.5 + 0.3 * (patterns[y] - 0.5) + 0.15 * torch.randn(n, 3, SIDE, SIDE, generator=g)
    return x.clamp(0, 1).double(), y


@pytest.fixture(scope="session")
def net() -> nn.Module:
    """A smooth two-layer network, right on nearly all clean images and on few at 16/255."""
    g = torch.Generator().manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(512, CLASSES)
    ).double()
    with torch.no_grad():
        for p in layers.parameters():
            scale = 0.0 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))
    x, y = _data(512, seed=2)
    optimiser = torch.optim.Adam(layers.parameters(), lr=3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(layers(x), y).backward()
        optimiser.step()
    return layers.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def images() -> tuple[Tensor, Tensor]:
    """64 test images (64, 3, 8, 8) float64 and their labels."""
    return _data(64, seed=3)


@pytest.fixture
def accuracy(net: nn.Module) -> Callable[[Tensor, Tensor], float]:
    @torch.no_grad()
    def measure(x: Tensor, y: Tensor) -> float:
        return float((net(x).argmax(1) == y).double().mean())

    return measure


@pytest.fixture(scope="session")
def keys() -> tuple[str, ...]:
    return KEYS
