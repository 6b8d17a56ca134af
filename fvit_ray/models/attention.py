"""Attention maps and activations of timm transformers, by hooks that undo themselves.

The network is never forked and its classes are never patched. timm's fused attention hides the
attention matrix, so it is switched off inside `watch`, for the watched layers only, and restored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Tape:
    """What one forward pass left behind.

    attention: softmax attention of each watched layer, (B, heads, N, N) or, in windows,
        (B * windows, heads, n, n); part of the graph where gradients are asked for
    """

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self._inputs: dict[nn.Module, Tensor] = {}
        self._outputs: dict[nn.Module, Tensor] = {}

    def input(self, module: nn.Module) -> Tensor:
        """Input of a recorded module, detached, at least float32."""
        return wide(self._inputs[module])

    def output(self, module: nn.Module) -> Tensor:
        """Output of a recorded module, detached, at least float32."""
        return wide(self._outputs[module])

    def graph_output(self, module: nn.Module) -> Tensor:
        """Output of a recorded module as the network computed it, with its graph."""
        return self._outputs[module]


def wide(x: Tensor) -> Tensor:
    """Detached, in at least float32: relevance arithmetic does not survive half precision."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def watch(
    attention: Sequence[nn.Module],
    record: Iterable[nn.Module] = (),
    *,
    grad_from: int | None = None,
    grad_outputs: Collection[nn.Module] = (),
) -> Iterator[Tape]:
    """Record one forward pass made inside the context.

    attention: timm attention layers in network order; their maps go to `tape.attention`
    record:    modules whose input and output are kept
    grad_from: first attention layer whose map takes part in autograd, None for none
    grad_outputs: recorded modules whose output takes part in autograd
    Where nothing before such a point needs a gradient, the graph begins there.
    """
    tape = Tape()
    fused = [(layer, layer.fused_attn) for layer in attention]
    handles = []

    def see(index: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            if grad_from is not None and index >= grad_from:
                out = in_graph(out)
            tape.attention.append(out)
            return out

        return hook

    def keep(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        out = in_graph(out) if module in grad_outputs else out
        tape._inputs[module], tape._outputs[module] = args[0], out
        return out

    try:
        for index, layer in enumerate(attention):
            layer.fused_attn = False  # type: ignore[assignment]
            drop: Any = layer.attn_drop
            handles.append(drop.register_forward_hook(see(index)))
        handles += [module.register_forward_hook(keep) for module in record]
        yield tape
        if len(tape.attention) != len(attention):
            raise RuntimeError(
                f"{len(tape.attention)} of {len(attention)} attention maps were seen: "
                "a fused or compiled attention hides them"
            )
    finally:
        for handle in handles:
            handle.remove()
        for layer, was in fused:
            layer.fused_attn = was


def in_graph(x: Tensor) -> Tensor:
    """`x`, or where it has no graph the start of one (a view: counters refuse leaves)."""
    return x if x.requires_grad else x.detach().requires_grad_().view_as(x)


class Layout(Protocol):
    """How the tokens of a network lie on the image; a `row` is (B, N), one weight per token.

    attention: the attention layers in order; name: for messages
    """

    name: str
    attention: Sequence[nn.Module]

    def start(self, like: Tensor, batch: int) -> Tensor:
        """The row the logits read from: 1 on CLS, halves on CLS and DIST, or 1/N each."""
        ...

    def apply(self, row: Tensor, matrix: Tensor, block: int) -> Tensor:
        """`row` times the token matrix of `block`, shaped as in `Tape.attention` without heads."""
        ...

    def sums(self, matrix: Tensor, block: int) -> Tensor:
        """Sums of a matrix's rows over the tokens, padding left out; the last axis is kept."""
        ...

    def descend(self, row: Tensor, block: int) -> Tensor:
        """A row over the input tokens of `block` -> over the output tokens of the block before."""
        ...

    def grid(self, row: Tensor, block: int) -> Tensor:
        """A row over the tokens of `block` -> (B, h, w) on its patch grid, prefix dropped."""
        ...


class TokenLayout:
    """One sequence of tokens in every block: prefix tokens (CLS, DIST, registers), then patches."""

    def __init__(self, net: Any, rows: Sequence[int]) -> None:
        self.name: str = type(net).__name__
        self.attention: Sequence[nn.Module] = [block.attn for block in net.blocks]
        self.rows = tuple(rows)
        self.num_prefix_tokens: int = net.num_prefix_tokens
        height, width = net.patch_embed.grid_size
        self.patch_grid = (int(height), int(width))

    def start(self, like: Tensor, batch: int) -> Tensor:
        tokens = self.num_prefix_tokens + self.patch_grid[0] * self.patch_grid[1]
        row = like.new_zeros(batch, tokens)
        for token in self.rows:  # an index list would be uploaded, and the host wait for it
            row[:, token] = 1 / len(self.rows)
        return row

    def apply(self, row: Tensor, matrix: Tensor, block: int) -> Tensor:
        moved: Tensor = row.unsqueeze(1) @ matrix
        return moved.squeeze(1)

    def sums(self, matrix: Tensor, block: int) -> Tensor:
        return matrix.sum(-1, keepdim=True)

    def descend(self, row: Tensor, block: int) -> Tensor:
        return row

    def grid(self, row: Tensor, block: int) -> Tensor:
        grid: Tensor = row[..., self.num_prefix_tokens :].unflatten(-1, self.patch_grid)
        return grid
