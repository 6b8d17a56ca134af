"""Class specificity: mass by hand, the class-blind map, bad input."""

from __future__ import annotations

import pytest
import torch

from fvit_ray.metrics.class_specificity import COLUMNS, class_specificity


def garments(n=1, side=8):
    """Two squares side by side, an eighth of the image each, the rest empty."""
    left, right = torch.zeros(2, n, side, side, dtype=torch.bool)
    left[:, 2:6, 1:3], right[:, 2:6, 5:7] = True, True
    return left, right


def test_shares_by_hand():
    left, right = garments()
    maps = 3.0 * left + 1.0 * right
    maps[:, 0] = 0.5  # 8 * 0.5 on neither; the least mass of a pixel is 0
    maps[:, 7] = -2.0  # negative relevance is no mass
    got = {name: value.item() for name, value in class_specificity(maps, left, right).items()}
    assert tuple(got) == COLUMNS
    assert got == pytest.approx(
        {"valid": True, "share": 24 / 36, "share_other": 8 / 36, "margin": 16 / 36, "area": 1 / 8}
    )


def test_a_map_that_ignores_the_class_averages_zero():
    left, right = garments(5)
    maps = torch.rand(5, 8, 8)
    asked = class_specificity(maps, left, right)
    other = class_specificity(maps, right, left)
    assert torch.equal(asked["margin"], -other["margin"])
    torch.testing.assert_close(asked["share_other"], other["share"])


def test_what_all_pixels_share_counts_nothing():
    """Swin's rollouts keep a uniform start, which would hide where the rest lies."""
    left, right = garments()
    maps = 1.0 * left + 0.5 * right
    got, lifted = (class_specificity(m, left.int(), right.int()) for m in (maps, maps + 7))
    assert got["share"].item() == pytest.approx(2 / 3)
    torch.testing.assert_close(got, lifted)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan"), float("inf")])
def test_a_map_that_says_nothing_scores_nothing(value):
    left, right = garments(2)
    maps = torch.rand(2, 8, 8)
    maps[0] = value
    got = class_specificity(maps, left, right)
    assert got["valid"].tolist() == [False, True]
    assert not any(column[0] for column in got.values())
    assert all(column.isfinite().all() for column in got.values())


def test_no_positive_mass_and_no_object_score_nothing():
    left, right = garments(3)
    maps = torch.rand(3, 8, 8)
    maps[0] -= 2
    left[1] = False
    right[2] = False
    assert not class_specificity(maps, left, right)["valid"].any()


def test_masks_of_another_size_are_one_line():
    left, right = garments()
    with pytest.raises(ValueError, match="other object's masks must be"):
        class_specificity(torch.rand(1, 8, 8), left, right[:, :7])
