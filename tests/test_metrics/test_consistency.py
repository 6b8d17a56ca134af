"""Similarity of two maps: extremes, values by hand, ties, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from fvit_ray.metrics.consistency import COLUMNS, average_ranks, consistency, pearson, ssim


def maps(n=5, side=12, seed=0):
    return torch.tensor(np.random.default_rng(seed).random((n, side, side)))


def test_a_map_is_like_itself_on_any_scale():
    got = consistency(maps(), 3 * maps() - 1)
    assert tuple(got) == COLUMNS
    for name in COLUMNS[1:]:
        torch.testing.assert_close(got[name], torch.ones(5).double())


def test_a_map_is_unlike_its_negative():
    got = consistency(maps(), -maps())
    torch.testing.assert_close(got["spearman"], -torch.ones(5).double())
    assert not got["top10"].any()
    assert (got["ssim"] < 0).all()


def test_unrelated_maps_share_what_chance_gives():
    got = consistency(maps(200, 20), maps(200, 20, seed=1))
    assert got["spearman"].mean() == pytest.approx(0, abs=0.02)
    assert got["top10"].mean() == pytest.approx(0.1, abs=0.02)
    assert got["cosine"].mean() == pytest.approx(0.75, abs=0.02)  # (1/4) / (1/3)


def test_by_hand():
    a = torch.zeros(1, 7, 7)
    b = torch.zeros(1, 7, 7)
    a[0, 0, :5] = torch.tensor([1.0, 0.8, 0.6, 0.0, 0.2])
    b[0, 0, :5] = torch.tensor([0.2, 1.0, 0.6, 0.0, 0.0])
    got = {name: value.item() for name, value in consistency(a, b).items()}
    assert got["cosine"] == pytest.approx(1.36 / (2.04 * 1.4) ** 0.5)
    assert got["top10"] == 3 / 4  # of int(4.9) = 4 pixels: a's 0 1 2 4, b's 1 2 0 and, a tie, 3
    assert got["valid"]


def test_top_ties_go_by_index():
    a, b = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    a[0, 0, 0] = b[0, 0, 0] = 1  # the other nine places are ties, taken from the front
    assert consistency(a, b)["top10"].item() == 1
    b[0, 0, 5] = 0.5
    assert consistency(a, b)["top10"].item() == 1


def test_spearman_ties_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 6, 8, 8)).astype(float)
    got = consistency(torch.tensor(a), torch.tensor(b))["spearman"]
    expected = [spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(got, expected, atol=1e-12)
    ranks = average_ranks(torch.tensor(a).flatten(1))
    np.testing.assert_array_equal(ranks + 1, [rankdata(x.ravel()) for x in a])


def test_pearson_of_a_constant_is_zero():
    assert pearson(torch.ones(1, 4).double(), torch.rand(1, 4).double()).item() == 0


def test_ssim_of_one_window_by_hand():
    a, b = maps(1, 7), maps(1, 7, seed=1)
    x, y = a.flatten().numpy(), b.flatten().numpy()
    cov = np.cov(x, y)
    top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
    bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
    assert ssim(a, b).item() == pytest.approx(top / bottom, abs=1e-12)


def test_symmetric_and_alone_as_in_a_batch():
    a, b = maps(), maps(seed=1) + maps()
    there, back = consistency(a, b), consistency(b, a)
    alone = [consistency(a[i : i + 1], b[i : i + 1]) for i in range(len(a))]
    for name in COLUMNS:
        torch.testing.assert_close(there[name], back[name])
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), there[name])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_map_without_ranking_on_either_side_scores_nothing(value):
    a, b = maps(3), maps(3, seed=1)
    a[0], b[1] = value, value
    got = consistency(a, b)
    assert got["valid"].tolist() == [False, False, True]
    for column in got.values():
        assert not column[:2].any()
        assert column.isfinite().all()


def test_bad_shapes_are_one_line():
    with pytest.raises(ValueError, match="attacked maps must be"):
        consistency(maps(2), maps(3))
    with pytest.raises(ValueError, match="upsampled"):
        consistency(maps(2, 6), maps(2, 6))
