"""Swin's windows are timm's own, and rows over tokens keep their weight."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from fvit_ray.models.swin import WindowLayout, from_windows, to_windows


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module", params=[32, 36])
def net(request):
    """32 pixels divide into windows; 36 do not, so timm pads."""
    size = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return SwinTransformer(request.param, 4 if request.param == 36 else 2, window_size=4, **size)


def blocks(net):
    return [block for stage in net.layers for block in stage.blocks]


def test_some_blocks_are_shifted(net):
    assert any(any(block.shift_size) for block in blocks(net))


def test_windows_are_what_timm_attends_to(net):
    for block in blocks(net):
        x, seen = draw(2, *block.input_resolution, block.dim).float(), {}
        handle = block.attn.register_forward_hook(
            lambda _, args, out, seen=seen: seen.update(given=args[0], out=out)
        )
        merged = block._attn(x)
        handle.remove()
        assert torch.equal(to_windows(x, block), seen["given"])
        size = tuple(block.input_resolution)
        assert torch.equal(from_windows(seen["out"], block, size), merged)


def test_back_and_forth(net):
    for block in blocks(net):
        x = draw(3, *block.input_resolution, 5)
        assert torch.equal(from_windows(to_windows(x, block), block, x.shape[1:3]), x)


def test_a_row_times_a_matrix_is_that_of_the_full_matrix(net):
    layout = WindowLayout(net)
    for index, block in enumerate(layout.blocks):
        height, width = layout.grids[index]
        tokens, area = height * width, block.window_area
        identity = torch.eye(tokens).double()
        windows = to_windows(draw(1, height, width, 1), block).shape[0]
        matrix = draw(windows, area, area)
        full = torch.cat([layout.apply(row[None], matrix, index) for row in identity])
        row = draw(1, tokens)
        torch.testing.assert_close(layout.apply(row, matrix, index), row @ full)
        sums = layout.sums(matrix, index)
        where = from_windows(sums, block, (height, width)).flatten()
        torch.testing.assert_close(full.sum(1), where)


def test_merging_splits_a_row_among_four(net):
    layout = WindowLayout(net)
    row = layout.start(draw(1), 2)
    assert row.sum(1).tolist() == pytest.approx([1, 1])
    down = layout.descend(row, 2)
    assert down.shape == (2, layout.grids[1][0] * layout.grids[1][1])
    if layout.grids[1][0] % 2 == 0:
        assert down.sum(1).tolist() == pytest.approx([1, 1])
    merged = layout.grid(row, 2)[0, 0, 0]
    assert torch.equal(layout.grid(down, 1)[0, :2, :2], (merged / 4).expand(2, 2))
    assert layout.descend(row, 3) is row
