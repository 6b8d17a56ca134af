"""What an evaluation returns: outcomes by condition, images for the report, and what it cost."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Meter:
    """Image passes per network and seconds per stage."""

    forwards: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def clear(self) -> None:
        self.forwards.clear()
        self.seconds.clear()

    def count(self, network: str, images: int) -> None:
        self.forwards[network] += images

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


@dataclass
class Outcome:
    """One condition's results over a block of samples."""

    pred: Tensor  # (B,) int64
    prob_label: Tensor  # (B,) in [0, 1]
    prob_pred: Tensor  # (B,)
    top5_correct: Tensor  # (B,) bool
    valid: Tensor  # (B,) bool; False where the network returned NaN or inf
    target: Tensor | None = None  # (B,) explained class; -1 where it differs by trial
    saliency: dict[str, Tensor] = field(default_factory=dict)  # explainer -> (B, H, W) in [0, 1]

    def first(self, count: int) -> Outcome:
        """The outcome of the first `count` samples."""
        saliency = {name: maps[:count] for name, maps in self.saliency.items()}
        tensors = {n: v[:count] for n, v in vars(self).items() if torch.is_tensor(v)}
        return Outcome(**tensors, saliency=saliency)

    def cpu(self) -> Outcome:
        """On the CPU, maps in half precision as they are stored."""
        tensors = {n: v.cpu() for n, v in vars(self).items() if torch.is_tensor(v)}
        saliency = {name: maps.half().cpu() for name, maps in self.saliency.items()}
        return Outcome(**tensors, saliency=saliency)


@dataclass
class Results:
    """Everything one call computed: outcomes by condition, and images of the first samples."""

    keys: tuple[str, ...]
    label: Tensor
    columns: dict[str, dict[str, Any]]  # condition_id -> CONDITION's columns
    outcomes: dict[str, Outcome]
    examples: dict[str, Tensor]  # "clean/<model>", ... -> (k, ..., H, W, 3) uint8

    def first(self, count: int) -> Results:
        """The results of the first `count` samples: without a block's padding."""
        examples = {name: images[:count] for name, images in self.examples.items()}
        outcomes = {name: outcome.first(count) for name, outcome in self.outcomes.items()}
        return Results(self.keys[:count], self.label[:count], self.columns, outcomes, examples)

    def rows(self) -> list[dict[str, Any]]:
        """One tidy row per (sample, condition); `at` is the sample's place in the batch."""
        rows = []
        for i, key in enumerate(self.keys):
            for name, outcome in self.outcomes.items():
                valid = bool(outcome.valid[i])
                row = {"key": key, "at": i, **self.columns[name], "label": int(self.label[i])}
                if valid:
                    row |= {
                        "pred": int(outcome.pred[i]),
                        "correct": bool(outcome.pred[i] == self.label[i]),
                        "top5_correct": bool(outcome.top5_correct[i]),
                        "prob_label": float(outcome.prob_label[i]),
                        "prob_pred": float(outcome.prob_pred[i]),
                    }
                rows.append(
                    row | {"error": None if valid else "the network's output is not finite"}
                )
        return rows


def join(blocks: list[Results]) -> Results:
    """Concatenate the results of consecutive blocks."""
    first = blocks[0]

    def cat(parts: list[Any]) -> Any:
        return None if parts[0] is None else torch.cat(parts)

    fields = ("pred", "prob_label", "prob_pred", "top5_correct", "valid", "target")
    outcomes = {}
    for name, outcome in first.outcomes.items():
        same = [block.outcomes[name] for block in blocks]
        outcomes[name] = Outcome(
            **{field: cat([getattr(o, field) for o in same]) for field in fields},
            saliency={e: cat([o.saliency[e] for o in same]) for e in outcome.saliency},
        )
    keys = tuple(key for block in blocks for key in block.keys)
    examples = {n: cat([b.examples[n] for b in blocks if b.examples]) for n in first.examples}
    return Results(keys, cat([b.label for b in blocks]), first.columns, outcomes, examples)


def to_uint8(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> (..., H, W, 3) uint8 on the CPU."""
    return (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).cpu()
