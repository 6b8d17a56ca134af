"""Projected gradient descent in the L-inf ball (Madry et al., 2018), the paper's default attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    noise: Tensor | None = None,
) -> Tensor:
    """Maximise cross-entropy inside the L-inf ball of radius `eps` around `x`.

    x:     (B, 3, H, W) pixels in [0, 1]; `model` normalises by itself
    y:     (B,) labels to move away from
    noise: (B, 3, H, W) in [-1, 1], the random start; drawn by the caller from the per-image seed
    Returns x_adv (B, 3, H, W) in [0, 1] with |x_adv - x| <= eps.
    """
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    x_adv = x if noise is None else (x + eps * noise).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, y, reduction="sum")  # sum: no 1/B in the gradient
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv + step_size * grad.sign()).clamp(low, high)
    return x_adv.detach()
