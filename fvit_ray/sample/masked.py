"""A deliberately masked defence, for the checks of an attack to find: it hides the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fvit_ray.models.load import load_classifier

LEVELS = 8  # of every channel: the image is still recognised, the gradient is zero everywhere


class Quantised(nn.Module):
    """A classifier that sees its (normalised) input rounded: nothing flows back."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.pretrained_cfg = net.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net((x * LEVELS / 2).round() * 2 / LEVELS)
        return out


def build() -> nn.Module:
    """The sample's ViT behind a quantiser: --models fvit_ray.sample.masked:build"""
    with torch.no_grad():
        return Quantised(load_classifier("sample_vit").net)
