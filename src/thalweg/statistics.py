"""Statistics: which contenders are worse than the leader, how sure a mean is, and how many seeds would settle it.

Values are scores (``score_scale``). They come in columns, one for each contender, which are paired: the same seeds, or
the same studies, in the same order.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import TypeVar

import numpy as np
from scipy import stats

Entrant = TypeVar("Entrant", bound=Hashable)

CONFIDENCE_LEVEL = 0.95
# Sums of numbers at the end of their range overflow to infinity, and are compared as such.
_OVERFLOWING = np.errstate(over="ignore", invalid="ignore")
MAX_SEEDS = 1_000_000_000  # so many, or more
_SEPARATION = 1.96  # a difference of so many standard errors separates two contenders


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: The mean.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


@_OVERFLOWING
def interval(values: Sequence[float]) -> Interval:
    """Return the mean of a sample with its t interval.

    Args:
        values: Independent values, at least one.

    Returns:
        The interval. It is infinite for a single value, which has no spread.

    Example:
        >>> interval([1.0, 2.0, 3.0]).mean
        2.0
    """
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.isf((1 - CONFIDENCE_LEVEL) / 2, len(sample) - 1)) * _standard_error(sample)
    return Interval(mean, mean - half, mean + half)


@cache
def critical_value(alpha: float, members: int, freedom: int) -> float:
    """Return the critical value of a paired difference from the leader (Tukey).

    Args:
        alpha: The level of the test among all members.
        members: The number of contenders that are compared, at least two.
        freedom: The degrees of freedom of a difference: the number of pairs minus one.

    Returns:
        The number of standard errors that chance exceeds with probability ``alpha``.
    """
    if members == 2:
        return float(stats.t.isf(alpha / 2, freedom))
    return float(stats.studentized_range.isf(alpha, members, freedom)) / math.sqrt(2)


@_OVERFLOWING
def drop(values: Mapping[Entrant, Sequence[float]], alpha: float) -> tuple[list[Entrant], list[Entrant]]:
    """Separate the contenders that are shown to be worse than the leader from all others.

    The test steps down. The contender that differs most, in standard errors of its own paired differences, is compared
    with the critical value among all contenders. If it is dropped, the test goes on among the remaining contenders.

    Args:
        values: The scores of each contender, in paired columns of one length.
        alpha: The level of the test among all contenders.

    Returns:
        The remaining contenders, the best mean first, and the dropped contenders, the worst first.

    Example:
        >>> drop({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 2.0]}, alpha=0.05)
        (['a'], ['b'])
    """
    remaining = sorted(values, key=lambda name: float(np.mean(values[name])))
    dropped: list[Entrant] = []
    leader = np.asarray(values[remaining[0]], dtype=float)
    if len(leader) < 2:
        return remaining, dropped
    excess = {name: _errors_above(np.asarray(values[name], dtype=float) - leader) for name in remaining[1:]}
    while excess:
        worst = max(excess, key=lambda name: excess[name])
        if excess[worst] <= critical_value(alpha, len(remaining), len(leader) - 1):
            break
        del excess[worst]
        remaining.remove(worst)
        dropped.append(worst)
    return remaining, dropped


@_OVERFLOWING
def surely_within(values: Sequence[float], leader: Sequence[float], margin: float, alpha: float, members: int) -> bool:
    """Return True if a contender is shown to be at most a margin above the leader.

    Args:
        values: The contender's scores.
        leader: The leader's scores, paired with ``values``.
        margin: The largest difference of the means that does not matter.
        alpha: The level of the test among all members.
        members: The number of contenders that are compared.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(leader, dtype=float)
    if len(differences) < 2:
        return False
    slack = critical_value(alpha, max(2, members), len(differences) - 1) * _standard_error(differences)
    return bool(differences.mean() + slack <= margin)


@_OVERFLOWING
def surely_below(differences: Sequence[float], sample: Sequence[float], alpha: float, members: int) -> bool:
    """Return True if a few differences lie further below zero than seeds alone explain.

    A difference of one pair has no spread of its own. So each of its two members is taken to spread as a larger sample
    does, and independently: that is too strict if the pairs share the luck of their seed.

    Args:
        differences: Paired differences, at least one.
        sample: Scores of one of the two from other seeds.
        alpha: The level of the test among all members.
        members: The number of contenders that are compared.

    Example:
        >>> surely_below([-3.0], [1.0, 2.0, 3.0], 0.05, 2), surely_below([-9.0], [1.0, 2.0, 3.0], 0.05, 2)
        (False, True)
    """
    if len(sample) < 2:
        return False
    spread = float(np.asarray(sample, dtype=float).std(ddof=1)) * math.sqrt(2 / len(differences))
    return bool(mean(differences) < -critical_value(alpha, max(2, members), len(sample) - 1) * spread)


@_OVERFLOWING
def seeds_to_settle(values: Sequence[float], leader: Sequence[float], margin: float) -> int:
    """Return the number of paired seeds that would separate two contenders whose means differ by a margin.

    It follows from the spread of the differences alone. Their mean is not used: where nothing was settled, it is
    mostly noise.

    Args:
        values: A contender's scores, at least two.
        leader: The leader's scores, paired with ``values``.
        margin: The difference of the means to detect, above zero.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(leader, dtype=float)
    seeds = np.square(_SEPARATION * differences.std(ddof=1) / np.float64(margin))
    return math.ceil(seeds) if seeds < MAX_SEEDS else MAX_SEEDS


def mean(values: Iterable[float]) -> float:
    """Return the mean of scores, also if their sum is no number of its dtype.

    Example:
        >>> mean([1.5e308, 1.5e308])
        1.5e+308
    """
    scores = list(values)
    try:
        return fmean(scores)
    except OverflowError:
        return math.fsum(score / len(scores) for score in scores)


def _standard_error(sample: np.ndarray) -> float:
    return float(sample.std(ddof=1)) / math.sqrt(len(sample))


def _errors_above(differences: np.ndarray) -> float:
    """The mean of the differences, in their standard errors."""
    error, mean = _standard_error(differences), float(differences.mean())
    if error == 0.0:
        return math.inf if mean > 0 else 0.0
    return mean / error
