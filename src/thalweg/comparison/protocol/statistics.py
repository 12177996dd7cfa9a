"""Statistics: who is worse than the leader, how sure a mean is, and how many seeds would settle it.

Values are scores: losses on the scale of the comparison (`scale`), in columns that are paired: the same seeds, or the
same studies, for every contender.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

LEVEL = 0.95
_SETTLED = 1.96  # a difference of so many standard errors is told apart


@dataclass(frozen=True)
class Interval:
    """A mean and its t interval at 95 %."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """The mean of values that are alike, with its interval; one value alone says nothing of its own error."""
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.isf((1 - LEVEL) / 2, len(sample) - 1)) * _standard_error(sample)
    return Interval(mean, mean - half, mean + half)


@cache
def critical(alpha: float, members: int, freedom: int) -> float:
    """How many standard errors a paired difference from the leader of so many may have by chance (Tukey)."""
    if members == 2:
        return float(stats.t.isf(alpha / 2, freedom))
    return float(stats.studentized_range.isf(alpha, members, freedom)) / math.sqrt(2)


def drop(values: Mapping[str, Sequence[float]], alpha: float) -> tuple[list[str], list[str]]:
    """(kept, dropped): who is not shown to be worse than the leader, the best mean first, and who is.

    Step-down: the one that differs most, in standard errors of its own paired differences, is compared with what
    chance gives among all, and so on among those that are left, until one cannot be dropped.
    """
    kept = sorted(values, key=lambda name: float(np.mean(values[name])))
    dropped: list[str] = []
    leader = np.asarray(values[kept[0]], dtype=float)
    if len(leader) < 2:
        return kept, dropped
    excess = {name: _errors_above(np.asarray(values[name], dtype=float) - leader) for name in kept[1:]}
    while excess:
        worst = max(excess, key=lambda name: excess[name])
        if excess[worst] <= critical(alpha, len(kept), len(leader) - 1):
            break
        del excess[worst]
        kept.remove(worst)
        dropped.append(worst)
    return kept, dropped


def surely_within(values: Sequence[float], leader: Sequence[float], margin: float, alpha: float, members: int) -> bool:
    """Whether paired values are shown to lie no more than a margin above the leader's, of so many that are compared."""
    differences = np.asarray(values, dtype=float) - np.asarray(leader, dtype=float)
    if len(differences) < 2:
        return False
    slack = critical(alpha, max(2, members), len(differences) - 1) * _standard_error(differences)
    return bool(differences.mean() + slack <= margin)


def seeds_to_settle(values: Sequence[float], leader: Sequence[float], margin: float) -> int:
    """How many paired seeds would tell two contenders apart that differ by a margin.

    From the spread of their differences alone: the observed difference is not used, since where nothing was settled it
    is mostly noise.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(leader, dtype=float)
    return math.ceil((_SETTLED * float(differences.std(ddof=1)) / margin) ** 2)


def _standard_error(sample: np.ndarray) -> float:
    return float(sample.std(ddof=1)) / math.sqrt(len(sample))


def _errors_above(differences: np.ndarray) -> float:
    error, mean = _standard_error(differences), float(differences.mean())
    if error == 0.0:
        return math.inf if mean > 0 else 0.0
    return mean / error
