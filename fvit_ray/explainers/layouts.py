"""Which networks can be explained: their layout and relevance pass, or why not, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from fvit_ray.explainers import swin, vit
from fvit_ray.explainers.base import Options
from fvit_ray.explainers.blocks import Relevance
from fvit_ray.models.attention import Layout, TokenLayout
from fvit_ray.models.swin import WindowLayout

SUPPORTED = "timm's VisionTransformer with a class token (ViT, DeiT, distilled DeiT) and Swin"


def find_layout(net: nn.Module, options: Options) -> Layout | str:
    """The layout of `net`, or one line naming what is supported and what was found."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    found, model = type(net).__name__, net  # type: str, Any
    if isinstance(net, SwinTransformer):
        pool = getattr(getattr(model.head, "global_pool", None), "pool_type", None)
        if pool != "avg" or not hasattr(model.head.fc, "in_features"):
            return f"only {SUPPORTED} can be explained; found {found} with pooling {pool!r}"
        return WindowLayout(net)
    if not isinstance(net, VisionTransformer):
        return f"only {SUPPORTED} can be explained; found {found}"
    if model.cls_token is None or model.global_pool != "token":
        return f"only {SUPPORTED} can be explained; found {found} that pools its tokens"
    if not all(hasattr(getattr(block, "attn", None), "attn_drop") for block in model.blocks):
        return f"only {SUPPORTED} can be explained; found {found} of {_kinds(model.blocks)}"
    distilled = isinstance(net, VisionTransformerDistilled)
    return TokenLayout(net, (0, 1) if distilled and options.row == "mean" else (0,))


def find_relevance(net: nn.Module) -> Callable[..., Relevance] | str:
    """The relevance pass of a network that has a layout, or one line naming the layer in its way.

    The rules know Linear, LayerNorm, softmax attention, residual sums and element-wise
    activations; LayerScale, query-key norms and gates, for example, have no rule.
    """
    from timm.models.swin_transformer import SwinTransformer

    windows = isinstance(net, SwinTransformer)
    odd = next(_odd_layers(net, windows), None)
    if odd is not None:
        return f"relevance rules know the plain blocks of ViT, DeiT and Swin; found {odd}"
    return swin.propagate if windows else vit.propagate


def _odd_layers(model: Any, windows: bool) -> Iterator[str]:
    """Layers of a ViT or Swin that the relevance pass has no rule for."""
    from timm.layers import Mlp
    from timm.models.swin_transformer import SwinTransformerBlock
    from timm.models.vision_transformer import Block

    norms, absent = [("norm", model.norm)], []
    for block in [block for s in (model.layers if windows else [model]) for block in s.blocks]:
        if not isinstance(block, SwinTransformerBlock if windows else Block):
            yield type(block).__name__
            return
        if type(block.mlp) is not Mlp:
            yield type(block.mlp).__name__
            return
        norms += [("norm1", block.norm1), ("norm2", block.norm2)]
        for owner, names in (
            (block, ("ls1", "ls2")),
            (block.attn, ("q_norm", "k_norm", "norm", "gate")),
            (block.mlp, ("norm",)),
        ):
            absent += [(name, getattr(owner, name, None)) for name in names]
    if not windows:
        absent += [(name, getattr(model, name)) for name in ("norm_pre", "fc_norm", "patch_drop")]
        if model.pos_embed is None or model.dynamic_img_size:
            yield "no position embedding of fixed size"
    for name, layer in absent:
        if layer is not None and not isinstance(layer, nn.Identity):
            yield f"{type(layer).__name__} ({name})"
    for name, layer in norms:
        if not isinstance(layer, nn.LayerNorm):
            yield f"{type(layer).__name__} ({name})"


def _kinds(modules: Sequence[nn.Module]) -> str:
    return ", ".join(sorted({type(module).__name__ for module in modules}))
