"""A claim, the paired tests behind it, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
FOR, AGAINST, OPEN = "for", "against", "open"


@dataclass(frozen=True)
class Test:
    """One paired comparison: `effect` and its interval are as the claim is worded, more is better.

    level: of the interval, 95 % where a difference is asked for, 90 % for equivalence
    unit:  of effect, low, high
    """

    __test__ = False  # no test of pytest's

    what: str
    n: int
    effect: float
    low: float
    high: float
    counts: str  # for, against, open
    level: int = 95
    unit: str = "points"
    metric: str = "top-1"
    run: str = ""  # folder of the rows
    condition: str = ""  # condition_id


@dataclass(frozen=True)
class Verdict:
    name: str
    verdict: str
    sentence: str
    tests: tuple[Test, ...] = ()


def decided(tests: Iterable[Test]) -> str:
    """Holds if every test counts for it, does not if any counts against it, else undecided."""
    counts = [test.counts for test in tests]
    if AGAINST in counts:
        return FAILS
    return HOLDS if counts and set(counts) == {FOR} else UNDECIDED


def direction(low: float, high: float, sign: int = 1) -> str:
    """What an interval says of "more than 0" (sign 1) or "less than 0" (-1)."""
    low, high = (low, high) if sign > 0 else (-high, -low)
    return FOR if low > 0 else AGAINST if high < 0 else OPEN


def tally(tests: Sequence[Test]) -> str:
    """ "so in 9 of 12 paired comparisons, the other way round in 1, not told apart in 2"."""
    good, bad = (sum(test.counts == which for test in tests) for which in (FOR, AGAINST))
    return (
        f"so in {good} of {len(tests)} paired comparison{'s' * (len(tests) != 1)}, the other way "
        f"round in {bad}, not told apart in {len(tests) - good - bad}"
    )


def numbers(tests: Iterable[Test]) -> str:
    """ "200", "38 to 40": the images behind the tests."""
    found = sorted({test.n for test in tests})
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
