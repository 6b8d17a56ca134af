"""What a run's scores say of the paper's claims: a verdict by paired tests, in a sentence each.

"Ours" is VTA behind the run's first defence; the baselines are the paper's: every method without
DDS that is no control. All is said of the largest radius. A comparison counts where its paired 95 %
interval over images excludes zero; intervals are not adjusted for their number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fvit_ray.report.grid import grid
from fvit_ray.report.render import render
from fvit_ray.report.run import Line, Run, Section
from fvit_ray.report.scores import CONTROLS, METRICS, number
from fvit_ray.report.text import radius

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim, the metric that tests it, and the scores that count."""

    name: str
    said: str
    metric: str
    scores: tuple[str, ...]


CLAIMS = (
    Claim(
        "Claim 2 (segmentation)",
        "VTA with DDS finds the object better than every baseline under attack",
        "segmentation",
        ("pixel_accuracy", "miou", "map"),
    ),
    Claim(
        "Claim 3",
        "maps of VTA with DDS stay more alike under attack than those of every baseline",
        "consistency",
        ("cosine", "spearman", "top10", "ssim"),
    ),
    Claim(
        "Claim 4 (positive)",
        "VTA with DDS has the lowest area when the most salient pixels go first",
        "perturbation",
        ("positive_auc",),
    ),
    Claim(
        "Claim 4 (negative)",
        "VTA with DDS has the highest area when the least salient pixels go first",
        "perturbation",
        ("negative_auc",),
    ),
)


@dataclass(frozen=True)
class Verdict:
    name: str
    verdict: str
    sentence: str


def verdicts(run: Run) -> list[Verdict]:
    """One per claim that the run has scores for; none under random weights."""
    if run.document["random_weights"]:
        return []
    found = [verdict for claim in CLAIMS if (verdict := _verdict(run, claim)) is not None]
    return found + _specificity(run)


def section(run: Run) -> Section | None:
    """The verdicts as HTML."""
    found = verdicts(run)
    if not found:
        return None
    return Section("claims", "What this says about the claims", render("claims", verdicts=found))


def sentences(run: Run) -> list[str]:
    return [f"{v.name}: {v.verdict}. {v.sentence}" for v in verdicts(run)]


def _verdict(run: Run, claim: Claim) -> Verdict | None:
    rivals = [
        line
        for line in run.scores
        if line["metric"] == claim.metric
        and line["score"] in claim.scores
        and line["denoiser"] == "none"
        and line["explainer"] not in CONTROLS
        and line["ours_low"] is not None
    ]
    if not rivals:
        return None
    eps = max(line["eps"] for line in rivals)
    rivals = [line for line in rivals if line["eps"] == eps]
    sign = -1 if claim.scores[0] in METRICS[claim.metric].lower else 1
    better = [x for x in rivals if (x["ours_low"] > 0 if sign > 0 else x["ours_high"] < 0)]
    worse = [x for x in rivals if (x["ours_high"] < 0 if sign > 0 else x["ours_low"] > 0)]
    verdict = FAILS if worse else HOLDS if len(better) == len(rivals) else UNDECIDED
    models = len(grid(run.lines).models)
    n = min(line["n"] for line in rivals)
    sentence = (
        f"At {radius(eps)}, n = {n}, {claim.said}: so in {len(better)} of {len(rivals)} paired "
        f"comparisons over {models} model{'s' * (models > 1)}, the other way round in {len(worse)}"
        f", not told apart in {len(rivals) - len(better) - len(worse)}."
    )
    if worse:
        sentence += f" Most against it: {_named(_most(worse, sign))}."
    elif better:
        sentence += f" The least of the differences: {_named(_most(rivals, sign))}."
    if claim.metric == "perturbation" and sign < 0 and worse:
        sentence += (
            " An undefended classifier that the attack has already made wrong leaves no area to "
            "lose, so this half of the claim cannot be won by a defence that keeps accuracy."
        )
    return Verdict(claim.name, verdict, sentence)


def _most(lines: Iterable[Line], sign: int) -> Line:
    return min(lines, key=lambda line: sign * line["ours"])


def _named(line: Line) -> str:
    metric = line["metric"]
    gap, low, high = (number(metric, line[f"ours{end}"]) for end in ("", "_low", "_high"))
    what = METRICS[metric].scores[line["score"]]
    return (
        f"{gap} [{low}, {high}] in {what} against {line['explainer']} on {line['model']} "
        f"({number(metric, line['value'])})"
    )


def _specificity(run: Run) -> list[Verdict]:
    """Experiment 4: is plain VTA specific, and what does DDS do for the class not dominant?"""
    found = [
        x for x in run.scores if x["metric"] == "class_specificity" and x["explainer"] == "vta"
    ]
    plain = [x for x in found if x["score"] == "margin_both" and x["denoiser"] == "none"]
    changed = [
        x for x in found if x["score"] == "margin_non_dominant" and x["gain_low"] is not None
    ]
    verdicts = []
    if all(x["low"] is not None for x in plain) and plain:
        specific = sum(x["low"] > 0 for x in plain)
        verdict = HOLDS if specific == len(plain) else FAILS if not specific else UNDECIDED
        sentence = (
            "VTA follows the asked class (margin over both questions above 0, n = "
            f"{_numbers(plain)}): {_list(plain, 'value', 'low', 'high')}; so in {specific} of "
            f"{len(plain)}."
        )
        verdicts.append(Verdict("Experiment 4 (class-specific)", verdict, sentence))
    if changed:
        worse = sum(x["gain_high"] < 0 for x in changed)
        better = sum(x["gain_low"] > 0 for x in changed)
        verdict = HOLDS if worse == len(changed) else FAILS if better else UNDECIDED
        sentence = (
            "The paper saw DDS do worse than plain VTA on the class that is not dominant. Change "
            f"of VTA's margin for that class with DDS (n = {_numbers(changed)}): "
            f"{_list(changed, 'gain', 'gain_low', 'gain_high')}; worse in {worse}, better in "
            f"{better} of {len(changed)}."
        )
        verdicts.append(Verdict("Experiment 4 (non-dominant class)", verdict, sentence))
    return verdicts


def _numbers(lines: list[Line]) -> str:
    numbers = sorted({line["n"] for line in lines})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _list(lines: list[Line], *names: str) -> str:
    """ "m clean: 1.0 [0.5, 1.5]; ..." of three columns."""
    parts = []
    for line in lines:
        value, low, high = (number("class_specificity", line[name]) for name in names)
        parts.append(f"{line['model']} {radius(line['eps'])}: {value} [{low}, {high}]")
    return "; ".join(parts)
