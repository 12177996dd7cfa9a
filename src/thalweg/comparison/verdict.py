"""Verdict: what the evidence allows to say, and which contender it recommends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.comparison.statistics import Interval

MARGIN = 0.03  # a difference of less than this share of the value is too small to matter


@dataclass(frozen=True)
class Standing:
    """What the verdict needs to know of one contender."""

    name: str
    interval: Interval
    state_bytes: int
    num_settings: int


@dataclass(frozen=True)
class Verdict:
    """The contender with the lowest median, all that the evidence cannot tell from it, and the one recommended."""

    best: str | None
    tied: list[str]
    recommended: str | None
    text: str


def judge(standings: Sequence[Standing], *, metric: str, seeds: int) -> Verdict:
    """The verdict on contenders whose values are losses.

    Tied with the best are those whose interval overlaps its interval, or whose median is within 3 % of its median.
    Recommended is, of the tied within 3 %, the one with the least optimizer state, then the fewest settings to tune.
    """
    finite = [standing for standing in standings if math.isfinite(standing.interval.median)]
    if not finite:
        return Verdict(None, [], None, "Every contender diverged at its best settings: none can be recommended.")
    best = min(finite, key=lambda standing: standing.interval.median)
    within = [standing for standing in finite if _within(standing.interval.median, best.interval.median)]
    tied = [standing for standing in finite if standing in within or standing.interval.overlaps(best.interval)]
    recommended = min(within, key=lambda one: (one.state_bytes, one.num_settings, one.interval.median))
    tied.sort(key=lambda standing: standing.interval.median)
    return Verdict(
        best.name,
        [standing.name for standing in tied],
        recommended.name,
        _text(best, tied, recommended, metric=metric, seeds=seeds, alone=len(standings) == 1),
    )


def _within(value: float, best: float) -> bool:
    return value - best <= MARGIN * abs(best)


def _text(best: Standing, tied: list[Standing], recommended: Standing, *, metric: str, seeds: int, alone: bool) -> str:
    interval = best.interval
    value = f"{interval.median:.4g} (95 % interval {interval.low:.4g} to {interval.high:.4g})"
    measured = f"median {metric} {value} over {seeds} fresh seeds"
    if alone:
        return f"{best.name}, tuned, reaches a {measured}."
    if len(tied) == 1:
        return f"{best.name} is best: {measured}. No other contender comes within 3 % or overlaps."
    others = [standing.name for standing in tied if standing is not best]
    differ = "does not differ" if len(others) == 1 else "do not differ"
    text = f"{best.name} has the lowest {measured}; {_listed(others)} {differ} from it by more than 3 % or the noise."
    if recommended is best:
        return f"{text} Recommended: {best.name}."
    why = "it keeps less optimizer state" if recommended.state_bytes < best.state_bytes else "it has less to tune"
    return f"{text} Recommended: {recommended.name}, within 3 % of the best, because {why}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
