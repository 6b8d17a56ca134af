"""The last block's attention, mean over heads: where the logits' tokens look."""

from __future__ import annotations

from torch import Tensor

from fvit_ray.explainers.base import Explainer, Needs, Trace


def explain(trace: Trace) -> Tensor:
    """(B, h, w): attention from the tokens the logits read (Swin: all of them) to the patches."""
    row = trace.layout.apply(trace.start(), trace.attention[-1].mean(1), trace.last)
    return trace.layout.grid(row, trace.last)


EXPLAINER = Explainer("raw_attention", explain, lambda *_: Needs(attention=True), False)
