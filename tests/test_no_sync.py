"""The host never waits for the device within a block: a whole one runs where nothing has a value.

On the meta device a tensor cannot be read, copied to the CPU or branched on: each is an error here
as each is a stop on CUDA. What CUDA does and meta allows, a copy to the device from memory that is
not pinned, is looked for among the operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fvit_ray import evaluate, results, rng, transfer
from fvit_ray.batch import Batch
from fvit_ray.cli import build
from fvit_ray.evaluate import Evaluator

DDPM = {"denoiser": "sample_ddpm", "sigma": 0.25, "trials": 2}
LDM = {"denoiser": "sample_ldm", "schedule": "paper", "trials": 2}
NOISE = {"denoiser": "identity", "trials": 2}
EXPLAINERS = (
    ["raw_attention", "rollout", "gradcam", "vta", "lrp", "partial_lrp", "attnlrp", "lrp_rollout"]
    + ["input_gradient", "integrated_gradients", "random", "center_gaussian", "input_intensity"]
)


class Stop(AssertionError):
    """An operation for which the host would wait."""


class Watched(TorchDispatchMode):
    """Raises at copies between the CPU and the meta device, and at operations on both."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        there = any(x.is_meta for x in (*given, *made))
        # numbers without a shape travel with the call
        here = [x for x in given if x.device.type == "cpu" and x.ndim]
        if there and here:
            raise Stop(f"{func} takes {tuple(here[0].shape)} from the CPU to the device")
        return out


def unseen(x: Tensor, device: torch.device | str) -> Tensor:
    """`upload`, whose copies are pinned and wait for nothing."""
    with torch.utils._python_dispatch._disable_current_modes():
        return torch.empty_like(x, device=device)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """block(config changes) -> the results of one block on the meta device."""
    monkeypatch.setattr(rng, "upload", unseen)
    for module in (evaluate, results):
        monkeypatch.setattr(module, "download", lambda x: x)

    def run(**changes: Any) -> Any:
        compute = {"micro_batch": 4, "denoise_batch": 8, "explain_batch": 4, "chunk": 4}
        tree: dict[str, Any] = {"compute": compute, "attack": {"eps": [0, "8/255"], "steps": 2}}
        evaluator = Evaluator(build(tree | changes), device="meta")
        image = torch.zeros(4, 3, 32, 32, device="meta")
        label = torch.zeros(4, dtype=torch.int64, device="meta")
        batch = Batch(("a", "b", "c", "d"), image, label)
        batches = dict.fromkeys(evaluator.specs.values(), batch)
        with Watched():
            return evaluator._block(batches, 2, None, 4)

    yield run


@pytest.mark.parametrize("defence", ["none", DDPM, LDM, NOISE])
def test_a_block_is_queued_without_a_stop(block: Any, defence: Any) -> None:
    models = ["sample_vit", "sample_swin"]
    found = block(models=models, defences=[defence])
    assert len(found.outcomes) == 4
    assert all(outcome.pred.is_meta for outcome in found.outcomes.values())


@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_explainer_stops(block: Any, name: str) -> None:
    models = ["sample_vit", "sample_deit", "sample_swin"]
    found = block(models=models, defences=["none", DDPM], explainers=[name])
    assert all(name in outcome.saliency for outcome in found.outcomes.values())
