"""Perturbation: which pixels go, the area, options, sharing, bad input."""

from __future__ import annotations

import pytest
import torch

from fvit_ray.metrics.perturbation import COLUMNS, FRACTIONS, curve, perturbation, removal_masks

BLACK = torch.zeros(3)


def bright(images, source):
    """Class 1 where the mean of the pixels exceeds 0.55."""
    one = (images.flatten(1).mean(1) > 0.55).double()
    return torch.stack([1 - one, one], 1)


def test_masks_take_the_floor_and_break_ties_by_index():
    maps = torch.tensor([[[0.2, 0.9, 0.2], [0.9, 0.0, 0.2]]])
    got = removal_masks(maps, [0.0, 0.2, 0.5, 1.0])
    assert got[0].int().tolist() == [
        [[0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0]],  # int(1.2)
        [[1, 1, 0], [1, 0, 0]],
        [[1, 1, 1], [1, 1, 1]],
    ]
    negative = removal_masks(maps, [0.2, 0.5], "negative")
    assert negative[0].int().tolist() == [[[0, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 1, 0]]]


def test_area_includes_the_unperturbed_point():
    """White images, black masks: still bright without 40 %, no longer without 50 %."""
    image = torch.ones(1, 3, 10, 10)
    maps = torch.arange(100.0).view(1, 10, 10)
    got = perturbation(bright, image, maps, torch.tensor([1]), order="positive", mask_value=BLACK)
    assert tuple(got) == COLUMNS
    steps = [got[f"correct_{10 * i:02d}"].item() for i in range(10)]
    assert steps == [True] * 5 + [False] * 5
    assert got["auc"].item() == pytest.approx(45)  # 0.4 and half a step


def test_area_is_ninety_at_most(scene, linear):
    image, maps = scene()

    def always(images, source):
        return torch.eye(2)[torch.ones(len(images)).long()]

    got = perturbation(always, image, maps, torch.ones(4), order="negative", mask_value=BLACK)
    torch.testing.assert_close(got["auc"], torch.full((4,), 90.0).double())


def test_the_mask_colour_matters():
    image, maps = torch.ones(1, 3, 10, 10), torch.arange(100.0).view(1, 10, 10)
    white = {"order": "positive", "mask_value": torch.ones(3)}
    got = perturbation(bright, image, maps, torch.tensor([1]), **white)
    assert got["auc"].item() == pytest.approx(90)


def test_a_faithful_map_falls_early_and_lasts_long(scene, linear):
    model = linear(8, classes=2)
    image, noise = scene(40, 8)
    own = model(image).argmax(1)
    maps = ((model.weights[own] - model.weights[1 - own]) * image).sum(1)
    auc = {}
    for order in ("positive", "negative"):
        for name, m in (("faithful", maps), ("random", noise)):
            options = {"order": order, "mask_value": BLACK}
            auc[order, name] = perturbation(model, image, m, own, **options)["auc"].mean()
    assert auc["positive", "faithful"] < auc["positive", "random"] - 10
    assert auc["negative", "faithful"] > auc["negative", "random"] + 10


def test_a_known_unperturbed_answer_saves_a_pass(scene, linear):
    image, maps = scene(3, 6)
    label = torch.tensor([0, 1, 2])
    options = {"order": "positive", "mask_value": BLACK}
    counted, fewer = [], []
    expected = perturbation(linear(6), image, maps, label, on_call=counted.append, **options)
    got = perturbation(
        linear(6),
        image,
        maps,
        label,
        unperturbed=expected["correct_00"],
        on_call=fewer.append,
        batch=8,
        **options,
    )
    assert sum(counted) == 30
    assert fewer == [8, 8, 8, 3]
    for name in COLUMNS:
        assert torch.equal(got[name], expected[name])


def test_the_curve_has_bands(scene, linear):
    image, maps = scene(20, 6)
    maps[0] = 1
    options = {"order": "positive", "mask_value": BLACK}
    columns = perturbation(linear(6), image, maps, torch.zeros(20), **options)
    got = curve(columns)
    assert list(got) == [0.0, *FRACTIONS]
    kept = columns["correct_30"][1:].double()
    assert got[0.3].value == pytest.approx(kept.mean().item())
    assert all(point.low <= point.value <= point.high for point in got.values())
    nothing = {name: value[:1] for name, value in columns.items()}
    assert set(curve(nothing).values()) == {(None, None, None)}


def test_other_fractions_have_their_own_columns(scene, linear):
    image, maps = scene(2, 6)
    got = perturbation(
        linear(6),
        image,
        maps,
        torch.zeros(2),
        order="negative",
        mask_value=BLACK,
        fractions=(0.05, 0.5),
    )
    assert list(got) == ["valid", "auc", "correct_00", "correct_05", "correct_50"]


@pytest.mark.parametrize("value", [0.3, float("nan")])
def test_a_map_without_ranking_scores_nothing(scene, linear, value):
    image, maps = scene(2, 6)
    maps[0] = value
    label = linear(6)(image).argmax(1)
    options = {"order": "positive", "mask_value": BLACK}
    got = perturbation(linear(6), image, maps, label, **options)
    assert got["valid"].tolist() == [False, True]
    assert not any(column[0] for column in got.values())
    assert got["correct_00"][1]


def test_bad_options_are_one_line(scene):
    _, maps = scene(1, 6)
    with pytest.raises(ValueError, match="positive or negative, got 'both'"):
        removal_masks(maps, [0.1], "both")
    with pytest.raises(ValueError, match=r"\[0, 1\], got 10"):
        removal_masks(maps, [0.1, 10])
