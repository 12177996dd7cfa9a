"""Verdict: what the evidence allows to say, and which contender it recommends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.comparison.statistics import Interval, surely_within

MARGIN = 0.03  # a difference of less than this share of the value is too small to matter
FRAGILE = 0.1  # a contender that diverges on more than this share of the seeds is not recommended


@dataclass(frozen=True)
class Standing:
    """What the verdict needs to know of one contender; `values` are in the order of the seeds, the same for all."""

    name: str
    values: Sequence[float]
    interval: Interval
    state_numbers: int
    num_settings: int

    @property
    def diverged(self) -> int:
        """On how many seeds it diverged or failed."""
        return sum(not math.isfinite(value) for value in self.values)

    @property
    def steady(self) -> bool:
        """Whether it can be relied on to end at all."""
        return self.diverged <= FRAGILE * len(self.values)


@dataclass(frozen=True)
class Verdict:
    """The lowest median, all that the evidence does not separate from it, and the one recommended."""

    best: str | None
    tied: list[str]
    recommended: str | None
    text: str


def judge(standings: Sequence[Standing], *, metric: str) -> Verdict:
    """The verdict on contenders whose values are losses.

    Best is the lowest median of those that are steady. Tied with it are those whose interval overlaps its interval,
    or whose median is within 3 % of its median. Recommended is the one with the least optimizer state, then the
    fewest settings to tune, among the best and those *shown* to lie within 3 % of it: not to be separated from the
    best is not enough.
    """
    steady = [standing for standing in standings if standing.steady]
    if not steady:
        text = "Every contender diverged or failed on more than a tenth of the seeds: none can be recommended."
        return Verdict(None, [], None, text)
    best = min(steady, key=lambda standing: standing.interval.median)
    tied = [standing for standing in standings if standing is best or _tied(standing, best)]
    near = [one for one in steady if one is best or surely_within(one.values, best.values, MARGIN)]
    recommended = min(near, key=lambda one: (one.state_numbers, one.num_settings, one.interval.median))
    tied.sort(key=lambda standing: standing.interval.median)
    text = _text(best, tied, recommended, metric=metric, alone=len(standings) == 1)
    return Verdict(best.name, [standing.name for standing in tied], recommended.name, text)


def _tied(standing: Standing, best: Standing) -> bool:
    if not math.isfinite(standing.interval.median):
        return False
    difference = standing.interval.median - best.interval.median
    return standing.interval.overlaps(best.interval) or abs(difference) <= MARGIN * abs(best.interval.median)


def _text(best: Standing, tied: list[Standing], recommended: Standing, *, metric: str, alone: bool) -> str:
    interval = best.interval
    value = f"{interval.median:.4g} (95 % interval {interval.low:.4g} to {interval.high:.4g})"
    measured = f"median {metric} {value} over {len(best.values)} fresh seeds"
    fragile = [f" {one.name} diverged on {one.diverged} of them." for one in tied if one.diverged]
    if alone:
        return f"{best.name} reaches a {measured}.{''.join(fragile)}"
    if len(tied) == 1:
        return f"{best.name} is best: {measured}.{''.join(fragile)} No other contender overlaps or comes within 3 %."
    others = _listed([standing.name for standing in tied if standing is not best])
    text = f"{best.name} has the lowest {measured}, not separated from {others}.{''.join(fragile)}"
    if recommended is best:
        return f"{text} Recommended: {best.name}."
    why = "keeps less optimizer state" if recommended.state_numbers < best.state_numbers else "has less to tune"
    return f"{text} Recommended: {recommended.name}, which is shown to lie within 3 % of the best and {why}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
