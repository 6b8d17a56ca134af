"""The paper's figures as numbers, and what it says of them as tested orderings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

from fvit_ray.experiments.pick import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Row,
    beats,
    methods,
    pick,
    said_of,
    sheet,
    values,
)
from fvit_ray.experiments.reading import OURS, Reading, changed, scored
from fvit_ray.report.run import Line
from fvit_ray.report.scores import CONTROLS
from fvit_ray.report.sheet import Cell, Column, Said, Sheet
from fvit_ray.report.text import points, radius


def perturbation(found: Reading, order: str) -> Sheet:
    """Figures 3 and 4: area under accuracy by radius."""
    score = f"{order}_auc"
    lines = [x for x in found.scores("perturbation") if x["score"] == score]
    radii = sorted({x["eps"] for x in lines})
    rows: list[Row] = []
    for model in values(lines, "model"):
        for method, defended in methods(lines):
            at = partial(pick, lines, denoiser=None if defended else "none", model=model)
            cells = tuple(scored(at(explainer=method, eps=eps), 1) for eps in radii)
            rows.append(((model, f"{method} (with DDS)" if defended else method), cells))
    columns = [Column(radius(eps), "") for eps in radii]
    said = [_extreme(lines, order)]
    if order == "positive":
        said.append(_falls(lines))
    note = "Area under accuracy while 0 to 90 % of the pixels go, times 100 (at most 90)."
    if order == "positive":
        note += " A classifier that is wrong anyway has a low area, whichever pixels go."
    return sheet(found, ("model", "method"), columns, rows, said, note)


def _extreme(lines: list[Line], order: str) -> Said:
    """Is VTA with DDS the lowest (highest) at most attacked radii?"""
    sign, won, sure, cells = (-1 if order == "positive" else 1), 0, 0, 0
    for model in values(lines, "model"):
        for eps in sorted({x["eps"] for x in lines if x["eps"]}):
            here = [x for x in lines if x["model"] == model and x["eps"] == eps]
            rivals = [x for x in here if x["denoiser"] == "none" and x["explainer"] not in CONTROLS]
            ours = pick(here, explainer=OURS)
            if ours is None or not rivals:
                continue
            cells += 1
            won += all(sign * (ours["value"] - x["value"]) > 0 for x in rivals)
            ends = [x["ours_low" if sign > 0 else "ours_high"] for x in rivals]
            sure += all(end is not None and sign * end > 0 for end in ends)
    verdict = UNDECIDED if not cells else HOLDS if 2 * won > cells else FAILS
    what, which = ("lowest", "lowest") if sign < 0 else ("highest", "highest")
    text = (
        f"{OURS} with DDS is the {what} at {won} of {cells} (model, attacked radius) pairs, told "
        f"from every baseline (95 %) at {sure}."
    )
    return said_of("figure3" if sign < 0 else "figure4", which, verdict, text)


def _falls(lines: list[Line]) -> Said:
    """Does the area fall with the radius, by rank correlation over the radii?"""
    falling = rising = 0
    for model in values(lines, "model"):
        for method, defended in methods(lines):
            mine = [
                x
                for x in lines
                if x["model"] == model
                and x["explainer"] == method
                and (x["denoiser"] != "none") == defended
            ]
            areas = [x["value"] for x in sorted(mine, key=lambda x: float(x["eps"]))]
            order = sum((b > a) - (b < a) for a, b in combinations(areas, 2))
            falling += order < 0
            rising += order > 0
    methods_ = falling + rising
    text = (
        f"By rank correlation over the radii it falls in {falling} of {methods_} (model, method) "
        f"pairs and rises in {rising}."
    )
    verdict = UNDECIDED if not methods_ else FAILS if rising > falling else UNDECIDED
    return said_of("figure3", "falls", HOLDS if falling and not rising else verdict, text)


def figure5(found: Reading) -> Sheet:
    """How alike clean and attacked maps of the asked class are, and its margin when dominant."""
    names = {"cosine": "cosine", "spearman": "Spearman", "top10": "top 10 %", "ssim": "SSIM"}
    lines = found.scores("consistency")
    margins = [x for x in found.scores("class_specificity") if x["score"] == "margin_dominant"]
    rows: list[Row] = []
    for model in values(lines, "model"):
        for method, defended in methods(lines):
            at = partial(pick, denoiser=None if defended else "none", model=model, explainer=method)
            cells = [scored(at(lines, score=score), 100) for score in names]
            attacked = [x for x in margins if x["eps"]]
            cells.append(scored(at(attacked), 100))
            rows.append(((model, f"{method} (with DDS)" if defended else method), tuple(cells)))
    columns = [Column(name, "") for name in names.values()]
    columns.append(Column("margin, dominant", "points", signed=True))
    text, verdict = beats(lines, tuple(names))
    said = said_of("figure5", "consistent", verdict, f"Likeness of the maps: {text}")
    note = (
        "Likeness times 100 of an image's clean and attacked map for the asked class; margin: the "
        "map's share on the asked object less that on the other, where that is the likelier class, "
        "attacked."
    )
    return sheet(found, ("model", "method"), columns, rows, [said], note)


def figure6(found: Reading) -> Sheet:
    """The margin of the class that is not dominant."""
    lines = [x for x in found.scores("class_specificity") if x["score"] == "margin_non_dominant"]
    radii = sorted({x["eps"] for x in lines})
    rows: list[Row] = []
    for model in values(lines, "model"):
        for method, defended in methods(lines):
            at = partial(pick, lines, denoiser=None if defended else "none", model=model)
            cells: list[Cell | None] = []
            for eps in radii:
                line = at(explainer=method, eps=eps)
                cells += [scored(line, 100), changed(line)]
            rows.append(((model, f"{method} (with DDS)" if defended else method), tuple(cells)))
    columns = []
    for eps in radii:
        columns.append(Column(f"margin, {radius(eps)}", "points", signed=True))
        columns.append(Column("change by DDS", "points", signed=True))
    moved = [x for x in lines if x["explainer"] == OURS and x["gain_low"] is not None]
    worse, better = (
        sum(x["gain_high"] < 0 for x in moved),
        sum(x["gain_low"] > 0 for x in moved),
    )
    listed = ", ".join(f"{x['model']} {radius(x['eps'])} {points(x['gain'])}" for x in moved)
    verdict = HOLDS if moved and worse == len(moved) else FAILS if better else UNDECIDED
    text = (
        f"Change of {OURS}'s margin: {listed or 'none'}; worse in {worse}, better in {better} of "
        f"{len(moved)} (95 %)."
    )
    said = said_of("figure6", "worse", verdict, text)
    note = "Only images in which the undefended classifier sees one of the two classes when clean."
    return sheet(found, ("model", "method"), columns, rows, [said], note)


FIGURES: dict[str, Callable[[Reading], Sheet]] = {
    "figure3": partial(perturbation, order="positive"),
    "figure4": partial(perturbation, order="negative"),
    "figure5": figure5,
    "figure6": figure6,
}
