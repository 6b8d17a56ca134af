"""Segmentation scores: conformance vectors, values by hand, bad input, intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fvit_ray.metrics.segmentation import COLUMNS, SCORES, bootstrap, segmentation, totals


@pytest.fixture(scope="module")
def vectors(root):
    with np.load(root / "tests" / "data" / "segmentation_metrics.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def columns(vectors):
    return segmentation(torch.tensor(vectors["maps"]), torch.tensor(vectors["masks"]))


def some(n=40, side=12, seed=0):
    """Maps that find their masks more or less."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, side, side)) < 0.3
    maps = masks * rng.random((n, 1, 1)) + rng.random((n, side, side))
    return torch.tensor(maps), torch.tensor(masks)


def test_conformance_totals(vectors, columns):
    got = totals(columns)
    assert got.n == 8
    for name in ("pixel_accuracy", "iou_background", "iou_foreground", "miou", "map"):
        assert getattr(got, name) == pytest.approx(float(vectors[name]), abs=1e-9), name


def test_conformance_per_image(vectors, columns):
    c = {name: value.double() for name, value in columns.items()}
    derived = {
        "pixel_accuracy": c["correct_pixels"] / c["pixels"],
        "iou_background": c["intersection_background"] / c["union_background"],
        "iou_foreground": c["intersection_foreground"] / c["union_foreground"],
        "average_precision": c["average_precision"],
    }
    for at, name in enumerate(vectors["per_image_columns"]):
        np.testing.assert_allclose(derived[name], vectors["per_image"][:, at], rtol=0, atol=1e-9)


def test_by_hand():
    """mean 0.4: foreground is the two last pixels, of which the mask has one."""
    maps = torch.tensor([[[0.0, 0.1], [0.5, 1.0]]])
    masks = torch.tensor([[[0, 1], [0, 1]]])
    row = {name: value.item() for name, value in segmentation(maps, masks).items()}
    # descending: 1.0 (both the mask's pixel as foreground and, 1 - 0, pixel 0 as background),
    # 0.9 (pixel 1 as background, wrong), 0.5 twice (pixel 2, one side wrong), 0.1 (pixel 1), 0, 0
    ap = (2 * 2 / 2 + 3 / 5 + 4 / 6) / 4
    assert row == pytest.approx(
        {
            "valid": True,
            "intersection_background": 1,
            "intersection_foreground": 1,
            "union_background": 3,
            "union_foreground": 3,
            "correct_pixels": 2,
            "pixels": 4,
            "average_precision": ap,
            "f1": 0.5,
            "pointing": True,
        }
    )
    assert tuple(row) == COLUMNS


def test_scores_ignore_scale_shift_and_batch():
    maps, masks = some()
    expected = segmentation(maps, masks)
    for other in (3 * maps - 7, maps.float() * 100):
        got = segmentation(other, masks)
        for name in COLUMNS:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=0)
    alone = [segmentation(maps[i : i + 1], masks[i : i + 1]) for i in range(len(maps))]
    for name in COLUMNS:
        assert torch.equal(torch.cat([one[name] for one in alone]), expected[name])


def test_stored_half_precision_maps_rank_ties_together():
    maps, masks = some()
    half = (maps / maps.amax((1, 2), keepdim=True)).half()
    for name, value in segmentation(half, masks).items():
        assert torch.equal(value, segmentation(half.double(), masks)[name]), name


@pytest.mark.parametrize("bad", [0.0, 0.5, float("nan"), float("inf")])
def test_a_map_without_ranking_scores_nothing(bad):
    maps, masks = some(3)
    expected = totals(segmentation(maps[1:], masks[1:]))
    maps[0] = 0.25 if bad != bad or bad > 1 else bad
    maps[0, 2, 3] = bad
    if bad == 0.5:
        maps[0] = bad
    got = segmentation(maps, masks)
    assert got["valid"].tolist() == [False, True, True]
    assert all(not value[0] for value in got.values())
    assert all(value.isfinite().all() for value in got.values())
    assert totals(got) == expected


def test_no_valid_image_has_no_score():
    columns = segmentation(torch.zeros(2, 4, 4), torch.ones(2, 4, 4))
    assert totals(columns) == (0, *[None] * 7)
    for other in (None, columns):
        assert set(bootstrap(columns, other, 0).values()) == {(None, None, None)}


def test_an_empty_mask_is_scored_as_background():
    maps, masks = some(4)
    got = segmentation(maps, torch.zeros_like(masks))
    assert not got["pointing"].any()
    assert not got["f1"].any()
    assert (got["average_precision"] > 0).all()


@pytest.mark.parametrize("shape", [(2, 7, 8), (2, 8), (1, 8, 8), (2, 1, 8, 8)])
def test_a_mask_of_another_size_is_one_line(shape):
    with pytest.raises(ValueError, match="masks must be") as caught:
        segmentation(torch.rand(2, 8, 8), torch.ones(shape))
    assert "\n" not in str(caught.value)


def test_maps_must_be_a_batch():
    with pytest.raises(ValueError, match="maps must be"):
        segmentation(torch.rand(8, 8), torch.ones(8, 8))


def test_bootstrap_brackets_the_totals():
    columns = segmentation(*some())
    got, expected = bootstrap(columns, None, 0), totals(columns)
    assert tuple(got) == SCORES
    for name, (value, low, high) in got.items():
        assert value == pytest.approx(getattr(expected, name), abs=1e-12)
        assert low < value < high
    assert got == bootstrap(columns, None, 0)
    assert got != bootstrap(columns, None, 1)


def test_bootstrap_is_paired():
    """The same images a little better: a narrow difference, though each alone is uncertain."""
    maps, masks = some(60)
    worse, better = segmentation(maps, masks), segmentation(maps + 0.1 * masks, masks)
    paired = bootstrap(better, worse, 0)
    alone = bootstrap(better, None, 0)
    for name in ("pixel_accuracy", "miou", "map", "f1"):
        low, high = paired[name].low, paired[name].high
        assert 0 < low < paired[name].value < high
        assert high - low < (alone[name].high - alone[name].low) / 2
    same = bootstrap(better, better, 0)
    assert all(same[name] == (0, 0, 0) for name in SCORES if name != "pointing")
    assert same["pointing"].low < 0 < same["pointing"].high


def test_pairs_count_where_both_are_valid():
    maps, masks = some(6)
    holed = maps.clone()
    holed[2] = 0
    a, b = segmentation(maps, masks), segmentation(holed, masks)
    kept = {name: value[b["valid"]] for name, value in a.items()}
    assert bootstrap(a, b, 0)["miou"].value == pytest.approx(0, abs=1e-12)
    assert bootstrap(b, None, 0) == bootstrap(kept, None, 0)


def test_unpaired_columns_are_refused():
    with pytest.raises(ValueError, match="join the rows by sample key"):
        bootstrap(segmentation(*some(5)), segmentation(*some(4)), 0)


def test_one_image_has_a_score_without_interval():
    got = bootstrap(segmentation(*some(1)), None, 0)
    assert got["miou"].value is not None
    assert got["miou"].low is got["miou"].high is None


def test_columns_may_be_arrays():
    columns = segmentation(*some())
    arrays = {name: value.numpy() for name, value in columns.items()}
    assert totals(arrays) == totals(columns)
    assert bootstrap(arrays, None, 0) == bootstrap(columns, None, 0)
