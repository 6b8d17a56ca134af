"""Sensitivity-n: exact maps of linear functions, the sets, bad input."""

from __future__ import annotations

import pytest
import torch

from fvit_ray.metrics.sensitivity_n import COLUMNS, random_sets, sensitivity_n

BLACK = {"mask_value": torch.zeros(3), "seed": 0}


class Score:
    """Not a softmax: the score itself is linear, and x * gradient is its exact attribution."""

    def __init__(self, model):
        self.model, self.calls, self.sources = model, [], []

    def __call__(self, images, source):
        self.calls.append(len(images))
        self.sources += source.tolist()
        return torch.einsum("nchw,kchw->nk", images, self.model.weights)


def exact(model, image, target):
    return (model.weights[target] * image).sum(1)


@pytest.fixture
def case(scene, linear):
    image, noise = scene(3, 8)
    model = linear(8)
    return Score(model), image, noise, torch.tensor([0, 1, 2]), ["a", "b", "c"]


def test_the_exact_attribution_scores_one_and_its_negative_minus_one(case):
    score, image, _, target, keys = case
    maps = exact(score.model, image, target)
    for sign in (1, -1):
        got = sensitivity_n(score, image, sign * maps, target, keys, subsets=30, **BLACK)
        assert tuple(got) == COLUMNS
        for name in COLUMNS[1:]:
            torch.testing.assert_close(got[name], torch.full((3,), float(sign)).double())


def test_noise_scores_about_zero(case):
    score, image, noise, target, keys = case
    got = sensitivity_n(score, image, noise, target, keys, subsets=200, **BLACK)
    assert got["sensitivity_n"].abs().max() < 0.5
    assert got["sensitivity_n"].mean() == pytest.approx(
        sum(got[name].mean() for name in COLUMNS[2:]) / 4
    )


def test_sets_have_their_size_and_depend_on_seed_and_key():
    map_ = torch.zeros(6, 6)
    sets = random_sets(0, "a", map_, (0.1, 0.5), 20)
    assert sets.sum((1, 2)).tolist() == [3] * 20 + [18] * 20
    assert not (sets[:20] & ~sets[20:]).any()
    assert torch.equal(sets, random_sets(0, "a", map_, (0.1, 0.5), 20))
    assert not torch.equal(sets, random_sets(1, "a", map_, (0.1, 0.5), 20))
    assert not torch.equal(sets, random_sets(0, "b", map_, (0.1, 0.5), 20))
    often = random_sets(0, "a", map_, (0.5,), 2000).double().mean(0)
    assert (often - 0.5).abs().max() < 0.06


def test_alone_as_in_a_batch_and_counted(case):
    score, image, noise, target, keys = case
    counted = []
    got = sensitivity_n(
        score, image, noise, target, keys, subsets=10, batch=16, on_call=counted.append, **BLACK
    )
    assert sum(counted) == 3 * (4 * 10 + 1)
    assert score.sources == [0] * 41 + [1] * 41 + [2] * 41
    alone = sensitivity_n(
        score, image[1:2], noise[1:2], target[1:2], keys[1:2], subsets=10, **BLACK
    )
    for name in COLUMNS:
        torch.testing.assert_close(alone[name], got[name][1:2])


def test_what_cannot_be_correlated_scores_nothing(case):
    score, image, noise, target, keys = case
    noise[0] = 0.5
    got = sensitivity_n(score, image, noise, target, keys, subsets=5, **BLACK)
    assert got["valid"].tolist() == [False, True, True]

    def deaf(images, source):
        return torch.ones(len(images), 3) / 3

    got = sensitivity_n(deaf, image, noise, target, keys, subsets=5, **BLACK)
    assert not got["valid"].any()
    assert not any(column.any() for column in got.values())
