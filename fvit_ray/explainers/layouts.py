"""Which networks can be explained: their layout and relevance pass, or why not, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    activations; LayerScale, query-key norms and gates have no rule.
    """
    from timm.layers import Mlp
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
    from timm.models.vision_transformer import Block

    model: Any = net
    windows = isinstance(net, SwinTransformer)
    stages = model.layers if windows else [model]
    blocks = [block for stage in stages for block in stage.blocks]
    start = "relevance rules know the plain blocks of ViT, DeiT and Swin; found"
    for block in blocks:
        if not isinstance(block, SwinTransformerBlock if windows else Block):
            return f"{start} {type(block).__name__}"
        if type(block.mlp) is not Mlp:
            return f"{start} {type(block.mlp).__name__} as MLP"
        inner = {"attn": ("q_norm", "k_norm", "norm"), "mlp": ("norm",), "": ("ls1", "ls2")}
        for part, names in inner.items():
            for name in names:
                layer = getattr(getattr(block, part) if part else block, name, None)
                if layer is not None and not isinstance(layer, nn.Identity):
                    return f"{start} {type(layer).__name__} ({name})"
        if getattr(block.attn, "gate", None) is not None:
            return f"{start} gated attention"
    rest = ("norm_pre", "fc_norm", "patch_drop") if not windows else ()
    for name in rest:
        layer = getattr(model, name, None)
        if layer is not None and not isinstance(layer, nn.Identity):
            return f"{start} {type(layer).__name__} ({name})"
    if not windows and (model.pos_embed is None or model.dynamic_img_size):
        return f"{start} no fixed position embedding"
    norms = [
        m for m in net.modules() if type(m).__name__.endswith("Norm2d") or "RMS" in str(type(m))
    ]
    if norms:
        return f"{start} {type(norms[0]).__name__}"
    return swin.propagate if windows else vit.propagate


def _kinds(modules: Sequence[nn.Module]) -> str:
    return ", ".join(sorted({type(module).__name__ for module in modules}))
