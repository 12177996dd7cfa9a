"""Aggregate: what contenders come to over several tasks, as pure functions of numbers.

A run is one seed of one task. Its excess is the logarithm of the ratio of its loss to that of the best contender of the
task, from the same seed (`Scale.excess`); 0 is as good as the best. Tasks count alike, however many seeds each has, so
runs carry weights: 1 / (tasks · seeds of the task). A resample draws the seeds of each task anew, with replacement,
which changes nothing but the weights; so every statistic is a function of values and rows of weights.

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

from thalweg.comparison.protocol.statistics import LEVEL, Interval

RESAMPLES = 2000  # as many as rliable, the package of Agarwal et al., takes
RATIOS = 61  # at which a profile is evaluated
FARTHEST = 10.0  # the largest ratio of a profile: beyond it, how much worse a run is tells nobody anything
_NEAREST = 1.1  # the least: where all runs are nearly as good as the best, an axis of no length shows nothing


@dataclass(frozen=True)
class Runs:
    """All runs of one contender, task by task: the excess of each, and whether it was lost (diverged or failed)."""

    excess: Sequence[Sequence[float]]
    lost: Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Profile:
    """For each ratio of the aggregate, the share of runs that are no worse, with a pointwise 95 % band."""

    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Aggregate:
    """What contenders come to over the tasks, the least interquartile mean first.

    `ratio` holds the interquartile means of the excess as ratios to the best of each task: 1.1 is worse by 10 %.

    The intervals and bands cover one thing: other seeds, at the settings that were chosen, on these tasks. They do not
    cover other tasks, nor what another search would have chosen; and which contender is the best of a task is taken
    as given, so one that is best on all of them has a ratio of 1 without any width. With few seeds a task they
    are somewhat too narrow, as a bootstrap of few values is.
    """

    ratio: dict[str, Interval]
    ratios: list[float]
    profiles: dict[str, Profile]


def aggregate(runs: Mapping[str, Runs]) -> Aggregate:
    """The aggregate of contenders that all took part in the same tasks.

    A lost run is infinitely bad in a profile. In the interquartile mean it counts by its excess, which is that of the
    untrained model: a mean of what is infinite would hide everything else.
    """
    means, weights, excesses = {}, {}, {}
    for name, mine in runs.items():
        weights[name] = resampled([len(values) for values in mine.excess])
        excess = np.concatenate([np.asarray(values, dtype=float) for values in mine.excess])
        means[name] = interquartile_mean(excess, weights[name])
        excesses[name] = np.where(np.concatenate([np.asarray(lost, dtype=bool) for lost in mine.lost]), np.inf, excess)
    at = _ratios(np.concatenate(list(excesses.values())))
    order = sorted(runs, key=lambda name: float(means[name][0]))
    return Aggregate(
        ratio={name: Interval(*map(math.exp, _with_interval(means[name]))) for name in order},
        ratios=[float(ratio) for ratio in np.exp(at)],
        profiles={
            name: Profile(*np.transpose([_with_interval(column) for column in shares.T]).tolist())
            for name, shares in ((name, profile(excesses[name], weights[name], at)) for name in order)
        },
    )


def resampled(sizes: Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """(1 + resamples, runs): the weights of the runs of tasks with so many seeds, and those of stratified resamples.

    The same sizes always get the same resamples, so that contenders which ran from the same seeds are resampled alike.
    """
    rng = np.random.default_rng(0)
    counts = [np.vstack([np.ones((1, n), int), rng.multinomial(n, np.full(n, 1 / n), size=resamples)]) for n in sizes]
    return np.hstack([count / (n * len(sizes)) for n, count in zip(sizes, counts, strict=True)])


def interquartile_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows,): the mean of the middle half of the values (runs,), by each row of weights (rows, runs)."""
    order = np.argsort(values)
    upper = np.cumsum(weights[:, order], axis=1)
    lower = upper - weights[:, order]
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0.0, None)
    return inside @ values[order] / inside.sum(axis=1)


def profile(values: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(rows, points): the weight of the values (runs,) that are no larger than each point, by each row of weights."""
    return np.round(weights @ (values[:, None] <= at), 12)  # fifteen fifteenths are 1


def _ratios(excess: np.ndarray) -> np.ndarray:
    """Logarithms of ratios, from 1 to that of the worst run."""
    finite = excess[np.isfinite(excess)]
    worst = float(finite.max()) if len(finite) else 0.0
    return np.linspace(0.0, min(max(worst, math.log(_NEAREST)), math.log(FARTHEST)), RATIOS)


def _with_interval(rows: np.ndarray) -> tuple[float, float, float]:
    """A statistic of the sample itself, the first row, and the percentiles of its resamples."""
    low, high = np.quantile(rows[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(rows[0]), float(low), float(high)
