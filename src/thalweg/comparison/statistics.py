"""Statistics: what a handful of seeds tells. Medians, with bootstrap intervals.

A training that diverged counts as infinitely bad: it is never dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A median over seeds and its bootstrap interval at 95 %."""

    median: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a value."""
        return self.low <= other.high and other.low <= self.high


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its percentile-bootstrap interval; not-a-number counts as infinity.

    The resamples are drawn from a fixed seed, so that the same values always give the same interval. Quantiles are
    taken without interpolation, which infinity would turn into not-a-number.
    """
    sample = np.asarray(values, dtype=float)
    sample = np.where(np.isnan(sample), np.inf, sample)
    drawn = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    medians = np.median(sample[drawn], axis=1)
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(medians, tails, method="inverted_cdf")
    return Interval(float(np.median(sample)), float(low), float(high))


def surely_within(values: Sequence[float], best: Sequence[float], margin: float) -> bool:
    """Whether paired values are shown to lie within this share of the best one's median.

    That is: the upper end of the bootstrap interval of the median paired difference does.
    """
    with np.errstate(invalid="ignore"):  # two trainings of one seed that both diverged differ by nothing known
        differences = np.asarray(values, dtype=float) - np.asarray(best, dtype=float)
    return median_interval(list(differences)).high <= margin * abs(float(np.median(best)))
