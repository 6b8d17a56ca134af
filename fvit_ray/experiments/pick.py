"""Lines of a reading picked out, and what every table and figure is made with."""

from __future__ import annotations

from fvit_ray.experiments.published import published, sentence
from fvit_ray.experiments.reading import OURS, Reading
from fvit_ray.report.run import Line
from fvit_ray.report.scores import CONTROLS
from fvit_ray.report.sheet import Cell, Column, Said, Sheet, range_of

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
Row = tuple[tuple[str, ...], tuple[Cell | None, ...]]


def beats(lines: list[Line], scores: tuple[str, ...]) -> tuple[str, str]:
    """VTA with DDS against every undefended method: (in words, verdict)."""
    rivals = [
        x
        for x in lines
        if x["denoiser"] == "none" and x["score"] in scores and x["ours_low"] is not None
        and x["explainer"] not in CONTROLS
    ]  # fmt: skip
    better, worse = sum(x["ours_low"] > 0 for x in rivals), sum(x["ours_high"] < 0 for x in rivals)
    text = (
        f"{OURS} with DDS is better in {better}, worse in {worse} of {len(rivals)} paired "
        f"comparisons (95 %)."
    )
    return text, FAILS if worse else unanimous(better, len(rivals))


def sheet(
    found: Reading,
    heads: tuple[str, ...],
    columns: list[Column],
    rows: list[Row],
    said: list[Said],
    note: str = "",
) -> Sheet:
    """The table with its n, and protocol below."""
    numbers = range_of(c.n for _, cells in rows for c in cells if c is not None and c.n)
    note = f"n = {numbers} images; 95 % intervals. {note}".strip()
    about = published()[found.name]
    scale = "" if not found.sample else "; the sample's small models are not the paper's"
    source = f"“{about['caption']}”, {about['source']}{scale}"
    alarm = any(part.run.document["random_weights"] for part in found.parts)
    if alarm:
        note, said = f"RANDOM WEIGHTS: only shapes and times mean anything. {note}", []
    return Sheet(
        found.name, about["title"], source, heads, tuple(columns), tuple(rows), note,
        found.protocol, tuple(said),
    )  # fmt: skip


def said_of(name: str, which: str, verdict: str, found: str) -> Said:
    return Said(sentence(name, which), verdict, found)


def unanimous(good: int, of: int) -> str:
    return HOLDS if good == of and of else UNDECIDED


def stands_for(denoiser: str, *names: str) -> bool:
    """Whether a denoiser is, or on the sample stands for, one of the paper's."""
    stands = published()["stands_for"]
    return any(denoiser in stands.get(name, [name]) for name in names)


def pick(lines: list[Line], denoiser: str | None = None, **wanted: object) -> Line | None:
    """The first line with these values; denoiser None: any but none, the first defence."""
    for line in lines:
        right = line["denoiser"] != "none" if denoiser is None else line["denoiser"] == denoiser
        if right and all(line[name] == text for name, text in wanted.items()):
            return line
    return None


def values(lines: list[Line], name: str) -> list[str]:
    return list(dict.fromkeys(str(line[name]) for line in lines))


def methods(lines: list[Line]) -> list[tuple[str, bool]]:
    """(method, with DDS) in the order of the run, those with DDS after their own."""
    plain = values([x for x in lines if x["denoiser"] == "none"], "explainer")
    ours = values([x for x in lines if x["denoiser"] != "none"], "explainer")
    found = []
    for name in dict.fromkeys((*plain, *ours)):
        found += [(name, False)] * (name in plain) + [(name, True)] * (name in ours)
    return found
