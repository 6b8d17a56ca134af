"""A classifier simple enough to know its answers, and images and maps for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch


class Linear:
    """Softmax of a linear function of the pixels, in float64; remembers what it was given."""

    def __init__(self, side, classes=4, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = torch.tensor(rng.normal(size=(classes, 3, side, side)))
        self.calls, self.sources = [], []

    def __call__(self, images, source=()):
        self.calls.append(len(images))
        self.sources += [int(at) for at in source]
        logits = torch.einsum("n...chw,kchw->n...k", images.double(), self.weights)
        probs = logits.softmax(-1)
        return probs.mean(1) if probs.ndim == 3 else probs  # trials: mean of probabilities


@pytest.fixture
def linear():
    return Linear


@pytest.fixture
def scene():
    """scene(n, side): images (n, 3, side, side) and maps (n, side, side), float64."""

    def make(n=4, side=9, seed=0):
        rng = np.random.default_rng(seed)
        image = torch.tensor(rng.random((n, 3, side, side)))
        return image, torch.tensor(rng.random((n, side, side)))

    return make
