"""Aggregate: statistics of contenders over several tasks, as pure functions of numbers.

A run is one seed of one task. Its excess is the logarithm of the ratio of its loss to that of the best contender of the
task from the same seed (`ScoreScale.excess`); 0 is as good as the best. Each task counts equally, however many seeds it
has, so runs carry weights: 1 / (tasks · seeds of the task). A resample draws the seeds of each task again, with
replacement. That changes nothing but the weights, so every statistic is a function of values and rows of weights.

Source: Agarwal et al. 2021, arXiv:2108.13264 (interquartile mean, stratified bootstrap); Dolan & Moré 2002,
arXiv:cs/0102001 (performance profiles).

Departs: the quarters that the interquartile mean leaves out are quarters of the weight, and a run on the border counts
in part, where `scipy.stats.trim_mean` leaves out a whole number of values. They agree where all weights are equal and
their number is a multiple of four.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.statistics import CONFIDENCE_LEVEL, Interval

RESAMPLES = 2000  # the default of rliable, the package of Agarwal et al.
NUM_RATIOS = 61  # at which a profile is evaluated
MAX_RATIO = 10.0  # the largest ratio of a profile; beyond it the size of a ratio does not matter
_MIN_MAX_RATIO = 1.1  # if all runs are nearly as good as the best, the axis still has a length


@dataclass(frozen=True)
class Runs:
    """All runs of one contender.

    Attributes:
        excess: The excess of each seed, by task.
        lost: True for each seed that was lost, by task.
    """

    excess: Sequence[Sequence[float]]
    lost: Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Profile:
    """The share of runs that are no worse than each ratio of the aggregate, with a pointwise 95 % band.

    Attributes:
        share: The share of runs, by ratio.
        low: The lower end of the band.
        high: The upper end of the band.
    """

    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Aggregate:
    """Statistics of contenders over all tasks, the least interquartile mean first.

    The intervals and bands cover one thing: other seeds, at the settings that were chosen, on these tasks. They do not
    cover other tasks, or the settings of another search. The best contender of each task is fixed, so a contender that
    is the best on all tasks has a ratio of 1 without width. With few seeds a task the intervals are somewhat too
    narrow, as a bootstrap of few values is.

    Attributes:
        ratio: The interquartile mean of the excess as a ratio to the best of each task, by contender. 1.1 is worse by
            10 %.
        ratios: The ratios at which the profiles are evaluated, from 1.
        profiles: The performance profile of each contender.
    """

    ratio: dict[str, Interval]
    ratios: list[float]
    profiles: dict[str, Profile]


def aggregate(runs: Mapping[str, Runs]) -> Aggregate:
    """Return the aggregate of contenders that all took part in the same tasks.

    A lost run is infinitely bad in a profile. In the interquartile mean it counts by its excess, which is that of the
    untrained model, because one infinite value would hide all others.

    Args:
        runs: The runs of each contender.
    """
    means, weights, excesses = {}, {}, {}
    for name, contender in runs.items():
        weights[name] = resample_weights([len(values) for values in contender.excess])
        excess = np.concatenate([np.asarray(values, dtype=float) for values in contender.excess])
        lost = np.concatenate([np.asarray(values, dtype=bool) for values in contender.lost])
        means[name] = interquartile_mean(excess, weights[name])
        excesses[name] = np.where(lost, np.inf, excess)
    points = _profile_points(np.concatenate(list(excesses.values())))
    order = sorted(runs, key=lambda name: float(means[name][0]))
    return Aggregate(
        ratio={name: _mean_ratio(runs[name], means[name]) for name in order},
        ratios=[float(ratio) for ratio in np.exp(points)],
        profiles={
            name: Profile(*np.transpose([_with_interval(column) for column in shares.T]).tolist())
            for name, shares in ((name, profile(excesses[name], weights[name], points)) for name in order)
        },
    )


def resample_weights(sizes: Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """Return the weights of all runs, and those of stratified resamples.

    The same sizes always give the same resamples, so contenders that ran from the same seeds are resampled together.

    Args:
        sizes: The number of seeds of each task.
        resamples: The number of resamples.

    Returns:
        An array of shape ``(1 + resamples, runs)``. Each row sums to 1; the first row is the sample itself.
    """
    rng = np.random.default_rng(0)
    counts = [np.vstack([np.ones((1, n), int), rng.multinomial(n, np.full(n, 1 / n), size=resamples)]) for n in sizes]
    return np.hstack([count / (n * len(sizes)) for n, count in zip(sizes, counts, strict=True)])


def interquartile_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of the values.

    Args:
        values: An array of shape ``(runs,)``.
        weights: An array of shape ``(rows, runs)`` whose rows sum to 1.

    Returns:
        The mean by each row of weights, of shape ``(rows,)``.
    """
    order = np.argsort(values)
    upper = np.cumsum(weights[:, order], axis=1)
    lower = upper - weights[:, order]
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0.0, None)
    return inside @ values[order] / inside.sum(axis=1)


def profile(values: np.ndarray, weights: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the weight of the values that are no larger than each point.

    Args:
        values: An array of shape ``(runs,)``.
        weights: An array of shape ``(rows, runs)`` whose rows sum to 1.
        points: An array of shape ``(points,)``.

    Returns:
        An array of shape ``(rows, points)``.
    """
    return np.round(weights @ (values[:, None] <= points), 12)  # fifteen fifteenths are 1


def _profile_points(excess: np.ndarray) -> np.ndarray:
    """Logarithms of ratios, from 1 to that of the worst run."""
    finite = excess[np.isfinite(excess)]
    worst = float(finite.max()) if len(finite) else 0.0
    return np.linspace(0.0, min(max(worst, math.log(_MIN_MAX_RATIO)), math.log(MAX_RATIO)), NUM_RATIOS)


def _mean_ratio(runs: Runs, rows: np.ndarray) -> Interval:
    """The mean ratio with its interval, which is not a number if no task has a second seed to resample."""
    mean, low, high = map(math.exp, _with_interval(rows))
    has_interval = any(len(excess) > 1 for excess in runs.excess)
    return Interval(mean, low, high) if has_interval else Interval(mean, math.nan, math.nan)


def _with_interval(rows: np.ndarray) -> tuple[float, float, float]:
    """The statistic of the sample itself, the first row, and the percentiles of its resamples."""
    low, high = np.quantile(rows[1:], [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(rows[0]), float(low), float(high)
