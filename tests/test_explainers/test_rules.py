"""Rules one by one: what they conserve, and the gamma rule against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fvit_ray.explainers import Options, explain, run
from fvit_ray.explainers.rules import AttnLRP, RulesA, RulesB, safe_div


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def layer(kind, *shape):
    made = kind(*shape).double().requires_grad_(False)
    for index, parameter in enumerate(made.parameters()):
        parameter.copy_(draw(*parameter.shape, seed=index))
    return made


def spy(rules):
    """`rules` that note the total relevance of every residual sum, and what softmax keeps."""

    class Spy(rules):
        def __init__(self):
            super().__init__()
            object.__setattr__(self, "totals", [])
            object.__setattr__(self, "kept", [torch.zeros(())])

        def add(self, a, b, relevance):
            self.totals.append(relevance.flatten(1).sum(1))
            return super().add(a, b, relevance)

        def softmax(self, scores, attention, relevance):
            out = super().softmax(scores, attention, relevance)
            self.kept.append((relevance - out).unflatten(0, (3, -1)).flatten(1).sum(1))
            return out

    return Spy()


def totals(monkeypatch, classifier, batch, name, rules, **options):
    seen = spy(rules)
    monkeypatch.setattr(run, "RULES", dict.fromkeys(run.RULES, lambda _: seen))
    maps = explain(classifier, *batch, [name], options=Options(**options))[name]
    return torch.stack(seen.totals), seen.kept, maps


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_rules_b_conserve_over_the_tokens(tiny, batch, monkeypatch, kind):
    sums, _, _ = totals(monkeypatch, tiny(kind), batch, "lrp", RulesB, lrp_rules="B")
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)


def test_what_reaches_the_pixels_of_the_vectors(conformance, monkeypatch):
    """0.68 by rules B: the rest goes to pos_embed and CLS."""
    c = conformance
    pair = c.image[:3], c.target[:3]
    sums, _, maps = totals(monkeypatch, c.classifier, pair, "lrp", RulesB, lrp_rules="B")
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    print(maps.sum((1, 2)))
    assert float(c.maps["lrp_full_ours_rules"].sum((1, 2)).mean()) == pytest.approx(0.68, abs=0.02)


def test_rules_a_grow(conformance, monkeypatch):
    """Both sign parts get the whole relevance, so the sum grows from block to block."""
    c = conformance
    sums, _, _ = totals(monkeypatch, c.classifier, (c.image[:3], c.target[:3]), "lrp", RulesA)
    growth = sums[-1].abs() / sums[0].abs()
    print(sums, growth)
    assert (growth > 10).all()


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_attnlrp_conserves_but_for_the_softmax(tiny, batch, monkeypatch, kind):
    """Without biases, what arrives at a sum is the logit less what softmaxes before it kept."""
    classifier = tiny(kind, biases=False)
    sums, kept, _ = totals(monkeypatch, classifier, batch, "attnlrp", lambda: AttnLRP(0.0, 0.0))
    print(sums)


def test_safe_div():
    a, b = torch.tensor([1.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 2.0, -4.0, 3.0])
    torch.testing.assert_close(safe_div(a, b), torch.tensor([0.0, 0.5, -0.5, 0.0]))
