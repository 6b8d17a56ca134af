"""SaCo: the stated values, a faithful and an unfaithful map, ties, counting, bad input."""

from __future__ import annotations

import pytest
import torch

from fvit_ray.metrics.saco import COLUMNS, _group, coefficient, saco


@pytest.mark.parametrize(
    ("s", "d", "expected"),
    [
        ([3, 2, 1], [0.3, 0.2, 0.1], 1),
        ([3, 2, 1], [0.1, 0.2, 0.3], -1),
        ([3, 2, 1], [0.2, 0.3, 0.1], 0.5),
        ([5, 2, 1], [0.2, 0.2, 0.4], -0.25),
    ],
)
def test_stated_values(s, d, expected):
    got = coefficient(torch.tensor([s]).double(), torch.tensor([d]).double())
    assert got.item() == pytest.approx(expected, abs=1e-12)


def test_equal_groups_have_no_score():
    assert coefficient(torch.ones(1, 3), torch.rand(1, 3)).item() == 0


def test_groups_are_array_split_of_the_stable_rank():
    maps = torch.tensor([[[5.0, 1.0, 1.0], [9.0, 1.0, 7.0]]])
    assert _group(maps, 4).tolist() == [[[1, 1, 2], [0, 3, 0]]]  # of 2, 2, 1 and 1 pixels


def faithful(model, image):
    """Maps by what each pixel does to the prediction when it takes the image's mean colour."""
    own = model(image).argmax(1)
    moved = image - image.mean((-2, -1), keepdim=True)
    return ((model.weights[own] - model.weights[1 - own]) * moved).sum(1)


@pytest.mark.parametrize("groups", [8, 64])
def test_a_faithful_map_scores_one_and_its_negative_minus_one(scene, linear, groups):
    """Of groups of one size, the one with more of the true effect moves the prediction more."""
    model = linear(8, classes=2)
    image, noise = scene(6, 8)
    maps, one = faithful(model, image), torch.ones(6).double()
    torch.testing.assert_close(saco(model, image, maps, groups)["saco"], one)
    torch.testing.assert_close(saco(model, image, -maps, groups)["saco"], -one)
    assert (saco(model, image, noise, groups)["saco"].abs() < 0.9).all()


def test_passes_are_counted_and_batches_change_nothing(scene, linear):
    image, maps = scene(3, 6)
    model, counted = linear(6), []
    got = saco(model, image, maps, groups=5, batch=7, on_call=counted.append)
    assert tuple(got) == COLUMNS
    assert counted == model.calls == [7, 7, 4]  # 3 * (5 + 1)
    torch.testing.assert_close(got, saco(linear(6), image, maps, groups=5))
    for i in range(3):
        alone = saco(linear(6), image[i : i + 1], maps[i : i + 1], groups=5)
        torch.testing.assert_close(alone["saco"], got["saco"][i : i + 1])


def test_trials_take_their_own_mean_colour(scene, linear):
    image, maps = scene(2, 6)
    trials = torch.stack([image, image], 1)
    torch.testing.assert_close(saco(linear(6), trials, maps), saco(linear(6), image, maps))


def test_a_constant_map_scores_nothing(scene, linear):
    image, maps = scene(2, 6)
    maps[0] = 0.5
    got = saco(linear(6), image, maps)
    assert got["valid"].tolist() == [False, True]
    assert got["saco"][0] == 0


def test_a_broken_network_scores_nothing(scene):
    image, maps = scene(2, 6)

    def broken(images, source):
        return torch.full((len(images), 3), float("nan"))

    got = saco(broken, image, maps)
    assert not got["valid"].any()
    assert not got["saco"].any()


@pytest.mark.parametrize("groups", [1, 37])
def test_impossible_groups_are_one_line(scene, linear, groups):
    image, maps = scene(1, 6)
    with pytest.raises(ValueError, match=r"groups must lie in 2 .. 36"):
        saco(linear(6), image, maps, groups=groups)
