"""Rules one by one: what they conserve, and the gamma rule against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fvit_ray.explainers import Options, explain, rules, run
from fvit_ray.explainers.rules import AttnLRP, RulesA, RulesB, safe_div


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def watched(parent, *args):
    """`parent(*args)` that notes the total relevance of every sum, and what each softmax keeps."""

    class Watched(parent):
        totals, kept = [], []

        def add(self, a, b, relevance):
            self.totals.append(relevance.flatten(1).sum(1))
            return super().add(a, b, relevance)

        def softmax(self, scores, attention, relevance):
            out = super().softmax(scores, attention, relevance)
            images = len(self.totals[0])
            self.kept.append((relevance - out).unflatten(0, (images, -1)).flatten(1).sum(1))
            return out

    return Watched(*args)


def totals(monkeypatch, classifier, batch, name, seen, **options):
    """(sums, B) totals from the logits down, and (softmaxes, B)."""
    monkeypatch.setattr(run, "RULES", dict.fromkeys(run.RULES, lambda _: seen))
    explain(classifier, *batch, [name], options=Options(**options))
    return torch.stack(seen.totals), torch.stack(seen.kept)


def test_rules_b_conserve_over_the_tokens(classifier, batch, monkeypatch):
    """Exactly, but for the 1e-9 in the reference's division, which is left out here.

    An output none of whose 16 inputs contributes positively has nobody to give its relevance to;
    that happens three times in the tiny Swin.
    """
    monkeypatch.setattr(rules, "safe_div", lambda a, b: torch.where(b == 0, 0, a / b))
    sums, _ = totals(monkeypatch, classifier, batch, "lrp", watched(RulesB), lrp_rules="B")
    allowed = 1e-4 if hasattr(classifier.net, "layers") else 1e-9
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=allowed)


def test_rules_b_conserve_on_the_vectors(conformance, monkeypatch):
    c = conformance
    pair = c.image, c.target
    sums, _ = totals(monkeypatch, c.classifier, pair, "lrp", watched(RulesB), lrp_rules="B")
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    reached = c.maps["lrp_full_ours_rules"].sum((1, 2)).mean()  # the rest: pos_embed and CLS
    assert float(reached) == pytest.approx(0.68, abs=0.01)


def test_rules_a_grow(conformance, monkeypatch):
    """Both sign parts get the whole relevance: from 1 to 74 .. 426 over four blocks."""
    c = conformance
    sums, _ = totals(monkeypatch, c.classifier, (c.image, c.target), "lrp", watched(RulesA))
    torch.testing.assert_close(sums[0], torch.full((4,), 2.0).double(), rtol=1e-3, atol=0)
    grown = torch.tensor([211.41, 423.48, 426.19, 73.89]).double()
    torch.testing.assert_close(sums[-1], grown, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_attnlrp_conserves_but_for_the_softmax(tiny, batch, monkeypatch, kind):
    """Without biases, what arrives at a sum is the logit less what softmaxes on the way kept."""
    classifier, exact = tiny(kind, biases=False), watched(AttnLRP, 0.0, 0.0)
    sums, kept = totals(monkeypatch, classifier, batch, "attnlrp", exact)
    logit = classifier(batch[0]).gather(1, batch[1][:, None])[:, 0]
    sums = sums[1:] if kind == "deit" else sums  # its first sum is that of the two heads
    for block in range(len(kept)):
        expected = logit - kept[:block].sum(0)
        torch.testing.assert_close(sums[2 * block], expected)  # the MLP's sum
        torch.testing.assert_close(sums[2 * block + 1], expected)  # the attention's


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_the_gamma_rule_is_its_definition(gamma):
    """Contributions of the output's own sign count (1 + gamma) times."""
    x, relevance = draw(6, 5, seed=1), draw(6, 4, seed=2)
    linear = nn.Linear(5, 4).double().requires_grad_(False)
    expected = torch.zeros_like(x)
    for n in range(6):
        for j in range(4):
            part = x[n] * linear.weight[j]
            sign = 1 if part.sum() + linear.bias[j] >= 0 else -1
            favoured = [p * (1 + gamma * (p * sign > 0)) for p in [*part, linear.bias[j]]]
            for i in range(5):
                expected[n, i] += favoured[i] / (sum(favoured) + 1e-6) * relevance[n, j]
    found = AttnLRP(gamma=gamma).linear(linear, x, relevance)
    torch.testing.assert_close(found, expected)


def test_gamma_reaches_the_patch_embedding():
    conv = nn.Conv2d(3, 4, 2, 2).double().requires_grad_(False)
    x, relevance = draw(2, 3, 4, 4, seed=1), draw(2, 4, 2, 2, seed=2)
    as_linear = nn.Linear(12, 4).double().requires_grad_(False)
    as_linear.weight.copy_(conv.weight.flatten(1))
    as_linear.bias.copy_(conv.bias)
    cut = torch.nn.functional.unfold(x, 2, stride=2).mT
    rule = AttnLRP(gamma=0.1)
    expected = rule.linear(as_linear, cut, relevance.flatten(2).mT)
    found = rule.patches(conv, x, relevance)
    torch.testing.assert_close(torch.nn.functional.unfold(found, 2, stride=2).mT, expected)


def test_safe_div():
    a, b = torch.tensor([1.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 2.0, -4.0, 3.0])
    torch.testing.assert_close(safe_div(a, b), torch.tensor([0.0, 0.5, -0.5, 0.0]))
