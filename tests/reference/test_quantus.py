"""Removal tests against Quantus (Hedström et al., 2023), where it is installed; checked with 0.6.0.

Quantus has no SaCo, and its Sensitivity-N walks down the ranking instead of drawing random sets:
its faithfulness correlation is the one that draws them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fvit_ray.metrics.masked import predict_masked
from fvit_ray.metrics.perturbation import removal_masks
from fvit_ray.metrics.sensitivity_n import random_sets, sensitivity_n

quantus = pytest.importorskip("quantus")

SIDE, IMAGES, CLASSES = 9, 3, 4


class Network:
    """A layer and a softmax, through `predict_ours` and through what Quantus asks of a model."""

    def __init__(self):
        self.weights = np.random.default_rng(5).normal(size=(CLASSES, SIDE * SIDE)) / 3

    def predict(self, x):
        logits = np.tanh(x.reshape(len(x), -1) - 0.5) @ self.weights.T
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def predict_ours(self, images, source):
        return torch.tensor(self.predict(images.numpy()))

    def shape_input(self, x, shape, channel_first=None, batched=False):
        return x.reshape(-1, 1, SIDE, SIDE)


@pytest.fixture
def data():
    """Images of one channel, since Quantus removes values and not pixels; maps; classes."""
    rng = np.random.default_rng(8)
    images = rng.random((IMAGES, 1, SIDE, SIDE))
    images[:, 0, 0, 0] = 0  # Quantus calls an image's lowest value black
    return images, rng.random((IMAGES, SIDE, SIDE)), np.array([0, 1, 2])


def test_pixel_flipping_of_quantus(data):
    """Its curve starts after the first step."""
    network, (images, maps, labels) = Network(), data
    flipping = quantus.PixelFlipping(
        features_in_step=SIDE, perturb_baseline="black", disable_warnings=True
    )
    theirs = flipping.evaluate_batch(network, images, labels, maps[:, None])
    masks = removal_masks(torch.tensor(maps), [(step + 1) / SIDE for step in range(SIDE)])
    probs = predict_masked(network.predict_ours, torch.tensor(images), masks, torch.zeros(1, 1, 1))
    for i, label in enumerate(labels):
        np.testing.assert_allclose(probs[i, :, label], theirs[i], rtol=0, atol=1e-12)


def test_faithfulness_correlation_of_quantus(data, monkeypatch):
    """Sensitivity-n at one n, when it is handed our sets instead of its own draws."""
    network, (images, maps, labels), keys = Network(), data, ["a", "b", "c"]
    options = {"mask_value": torch.zeros(1), "seed": 0, "fractions": (0.3,), "subsets": 20}
    tensors = (torch.tensor(x) for x in (images, maps, labels))
    got = sensitivity_n(network.predict_ours, *tensors, keys, **options)["sensitivity_n"]
    sets = [random_sets(0, key, torch.tensor(maps[0]), (0.3,), 20).flatten(1) for key in keys]
    size = int(sets[0][0].sum())
    faithfulness = quantus.FaithfulnessCorrelation(
        nr_runs=20, subset_size=size, perturb_baseline="black", disable_warnings=True
    )
    for i in range(IMAGES):
        draws = iter(sets[i])
        monkeypatch.setattr(
            np.random, "choice", lambda *_, draws=draws, **__: next(draws).nonzero()[:, 0].numpy()
        )
        one = slice(i, i + 1)
        theirs = faithfulness.evaluate_batch(network, images[one], labels[one], maps[one, None])
        assert got[i].item() == pytest.approx(float(np.ravel(theirs)[0]), abs=1e-10)
