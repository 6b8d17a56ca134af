"""Writes tests/data/attnlrp_lxt.npz: AttnLRP of the conformance network by its authors' package.

lxt is no dependency of the project (it wants bitsandbytes, open_clip, zennit); to run this:
`uv pip install --no-deps --target /tmp/lxt lxt==2.1`, then
`PYTHONPATH=/tmp/lxt uv run python tests/reference/make_attnlrp_lxt.py`.
The network is composed of lxt.explicit's own functions with their default epsilons.
"""

from __future__ import annotations

from pathlib import Path

import lxt.explicit.functional as lf
import numpy as np
import torch
import torch.nn.functional as F
from lxt.explicit.rules import identity

DATA = Path(__file__).resolve().parents[1] / "data"
WIDTH, DEPTH, HEADS, PATCH = 48, 4, 3, 8


def forward(w, x):
    def linear(name, h):
        return lf.linear_epsilon(h, w[f"{name}.weight"].flatten(1), w[f"{name}.bias"])

    def norm(name, h):
        return lf.layer_norm(h, w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    cut = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
    h = linear("patch_embed.proj", cut.flatten(3).flatten(1, 2))
    h = torch.cat([w["cls_token"].expand(len(x), -1, -1), h], 1)
    h = lf.add2(h, w["pos_embed"].expand_as(h).clone())
    for i in range(DEPTH):
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", h))
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = identity(lambda s: s * (WIDTH // HEADS) ** -0.5, lf.matmul(q, k.mT))
        mixed = lf.matmul(lf.softmax(scores, -1), v).transpose(1, 2).flatten(2)
        h = lf.add2(h, linear(f"blocks.{i}.attn.proj", mixed))
        inner = identity(F.gelu, linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", h)))
        h = lf.add2(h, linear(f"blocks.{i}.mlp.fc2", inner))
    return linear("head", norm("norm", h)[:, 0])


def main():
    data = np.load(DATA / "explainers_vit_a.npz")
    w = {k[2:]: torch.from_numpy(data[k]).double() for k in data.files if k.startswith("w/")}
    x = torch.from_numpy(data["o/input"]).double().requires_grad_()
    logits = forward(w, x)
    chosen = F.one_hot(torch.from_numpy(data["o/target"]), 10) * logits.detach()
    (relevance,) = torch.autograd.grad(logits, x, chosen)
    np.savez(DATA / "attnlrp_lxt.npz", attnlrp=relevance.sum(1).numpy(), package="lxt 2.1")


if __name__ == "__main__":
    main()
