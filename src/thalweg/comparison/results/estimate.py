"""Estimate: a mean over seeds or studies with its interval, and what was lost on the way."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The mean of measured losses over seeds or studies, with its 95 % interval.

    The losses are those that were measured, also where they are worse than the untrained model's.

    Attributes:
        mean: The mean on the scale of the comparison; infinite if no training ended well.
        low: The lower end of the interval.
        high: The upper end of the interval; infinite if some were lost.
        count: The number of seeds or studies.
        lost: How many of them were lost: a training diverged, failed or missed the target. They count as untrained, so
            the mean is a lower bound.
        unimproved: How many ended no better than the untrained model, the lost ones among them.
        maximize: True if higher values are better.
        failed: How many of the lost ones failed: a training raised an error.
    """

    mean: float
    low: float
    high: float
    count: int
    lost: int = 0
    unimproved: int = 0
    maximize: bool = False
    failed: int = 0

    @property
    def bound(self) -> str:
        """A mark to print before a mean that is only a bound, else an empty string."""
        if not self.lost or not math.isfinite(self.mean):
            return ""
        return "≤ " if self.maximize else "≥ "

    @property
    def has_interval(self) -> bool:
        """True if the interval has two ends: more than one seed, none lost, and a spread between them."""
        return self.count > 1 and math.isfinite(self.worst_end) and not self.is_constant

    @property
    def is_constant(self) -> bool:
        """True if all of several seeds gave the same value, so that an interval says nothing."""
        return self.count > 1 and not self.lost and math.isclose(self.low, self.high, rel_tol=1e-12)

    @property
    def best_end(self) -> float:
        """The end of the interval at the better values."""
        return self.high if self.maximize else self.low

    @property
    def worst_end(self) -> float:
        """The end of the interval at the worse values."""
        return self.low if self.maximize else self.high

    def is_surely_better(self, rival: "Estimate") -> bool:
        """Return True if the interval lies at better values than that of another estimate of the same quantity."""
        return self.worst_end > rival.best_end if self.maximize else self.worst_end < rival.best_end

    def is_improvement(self, untrained: float) -> bool:
        """Return True if the mean is better than the untrained value, and so are at least half of the seeds."""
        is_better = self.mean > untrained if self.maximize else self.mean < untrained
        return is_better and 2 * self.unimproved <= self.count

    @property
    def lost_in_words(self) -> str:
        """The lost ones and the failed ones, in words: ``2 of them lost``, ``1 of them lost, 1 failed``."""
        unfailed = self.lost - self.failed
        if not self.failed or not unfailed:
            return f"{self.lost} of them {'failed' if self.failed else 'lost'}"
        return f"{unfailed} of them lost, {self.failed} failed"
