"""Masked copies: what is replaced, by what, in which calls."""

from __future__ import annotations

import pytest
import torch

from fvit_ray.metrics.masked import predict_masked


def echo(images, source):
    """Every value of an image as a "class", and the image's number."""
    return torch.cat([source[:, None].to(images), images.flatten(1)], 1)


def test_masked_pixels_take_the_colour_in_every_channel(scene):
    image, _ = scene(2, 2)
    masks = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [1, 1]]]).bool().expand(2, 2, 2, 2)
    colour = torch.tensor([0.1, 0.2, 0.3]).double()
    got = predict_masked(echo, image, masks, colour.view(3, 1, 1), batch=3)
    assert got.shape == (2, 2, 13)
    assert got[..., 0].tolist() == [[0, 0], [1, 1]]
    for i in range(2):
        for step in range(2):
            expected = image[i].clone()
            expected[:, masks[i, step]] = colour[:, None]
            assert torch.equal(got[i, step, 1:].view(3, 2, 2), expected)


def test_another_image_may_come_in_place(scene):
    image, _ = scene(2, 3)
    other = 1 - image
    masks = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    got = predict_masked(echo, image, masks, other)
    assert torch.equal(got[:, 0, 1:].view(2, 3, 3, 3), other)


def test_trials_are_masked_alike(scene, linear):
    image, maps = scene(3, 4)
    trials = torch.stack([image, image * 0.5], 1)
    masks = (maps > 0.5)[:, None]
    black = torch.zeros(3, 1, 1)
    together = predict_masked(linear(4), trials, masks, black)
    alone = [predict_masked(linear(4), trials[:, t], masks, black) for t in range(2)]
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


def test_calls_are_full_and_passes_are_counted(scene, linear):
    image, maps = scene(3, 4)
    masks = (maps[:, None] > torch.linspace(0, 1, 5).view(-1, 1, 1)).bool()
    model, counted = linear(4), []
    black = torch.zeros(3, 1, 1)
    split = predict_masked(model, image, masks, black, batch=4, on_call=counted.append)
    assert model.calls == counted == [4, 4, 4, 3]
    assert model.sources == [0] * 5 + [1] * 5 + [2] * 5
    torch.testing.assert_close(split, predict_masked(linear(4), image, masks, black))
    predict_masked(
        model, image[:, None].repeat(1, 2, 1, 1, 1), masks, black, on_call=counted.append
    )
    assert counted[-1] == 2 * 15


def test_no_gradient_is_kept(scene, linear):
    image, maps = scene(1, 4)
    got = predict_masked(
        linear(4), image.requires_grad_(), maps[:, None] > 0.5, torch.zeros(3, 1, 1)
    )
    assert not got.requires_grad


def test_a_map_of_another_size_is_one_line(scene, linear):
    image, _ = scene(1, 4)
    with pytest.raises(ValueError, match="give the maps of these very images") as caught:
        predict_masked(linear(4), image, torch.ones(1, 1, 5, 4).bool(), torch.zeros(3, 1, 1))
    assert "\n" not in str(caught.value)
