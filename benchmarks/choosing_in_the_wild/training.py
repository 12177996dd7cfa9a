"""Training: a training function with its score, and the runner that trains it once."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student_t

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import parse
from thalweg.tasks import seeded

ELEMENTWISE = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion")
CONFIDENCE = 0.95  # of a difference that is shown
CONTENDERS = (*ELEMENTWISE, "muon+adamw")
Train = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training script as a function, and what its score means.

    Attributes:
        name: The name of the training.
        about: One line on model, data and schedule.
        train: ``train(make_optimizer, report, steps=...)``. It reports a validation score on the way, and at the end
            also a test score.
        steps: The number of optimizer steps of a training.
        schedule: The learning rate schedule that the script sets itself.
        metric: The name of the score.
        worst: The score of a training that has learned nothing. A training that diverged, or ended worse, counts as
            this.
        maximize: True if a higher score is better.
        scale: ``"log"`` if ratios of scores count, ``"linear"`` if differences count.
        unit: The difference that counts as a regret of 1, on a linear scale.
        best_possible: The highest score that there can be; None for a score that is minimized.
        contenders: The contenders that can train it.
    """

    name: str
    about: str
    train: Train
    steps: int
    schedule: str
    metric: str
    worst: float
    maximize: bool = False
    scale: Literal["log", "linear"] = "log"
    unit: float = 1.0
    best_possible: float | None = None
    contenders: tuple[str, ...] = CONTENDERS

    def cost(self, score: float) -> float:
        """Return a score as a number of which less is better and differences count; the worst if it is worse.

        Example:
            >>> training = Training(name="", about="", train=print, steps=1, schedule="", metric="", worst=math.e)
            >>> training.cost(1.0), training.cost(math.nan)
            (0.0, 1.0)
        """
        worst = self._cost(self.worst)
        return worst if not math.isfinite(score) else min(self._cost(score), worst)

    def _cost(self, score: float) -> float:
        if self.scale == "log":
            return math.log(max(score, 1e-300))
        return (-score if self.maximize else score) / self.unit

    def score(self, cost: float) -> float:
        """Return the score that has this cost."""
        if self.scale == "log":
            return math.exp(cost)
        return (-cost if self.maximize else cost) * self.unit

    def regret(self, cost: float, best: float) -> float:
        """Return by what share, or by how many units on a linear scale, a mean cost is worse than the best."""
        return math.expm1(cost - best) if self.scale == "log" else cost - best


@dataclass(frozen=True)
class TrainingRun:
    """The result of one training.

    Attributes:
        validation: The last validation score; not a number if the training diverged.
        test: The last test score; not a number if the training diverged.
        reports: All validation scores, in order.
        seconds: The duration.
    """

    validation: float
    test: float
    reports: tuple[float, ...]
    seconds: float


class _Diverged(BaseException):
    """Ends a training from within ``report``."""


def ignore(count: int, value: float) -> None:
    """Ignore a report."""


def run(
    training: Training,
    contender: str | Contender,
    settings: Mapping[str, Any],
    seed: int,
    *,
    watch: Callable[[int, float], None] = ignore,
    **options: Any,
) -> TrainingRun:
    """Train once.

    Args:
        training: The training.
        contender: The contender, or its name.
        settings: Settings that replace those that the contender starts from.
        seed: The seed of Python's, numpy's and torch's random numbers.
        watch: Called with the number of reports so far and the validation score; an exception ends the training.
        options: Passed to the training function, e.g. ``steps=3``.
    """
    entrant = parse(contender) if isinstance(contender, str) else contender
    reports: list[float] = []
    tests: list[float] = []

    def make_optimizer(model: Any, roles: Mapping[str, str] | None = None) -> Any:
        return entrant.optimizer(model, settings, roles)

    def report(value: float, *, train: float = math.nan, test: float = math.nan) -> None:
        reports.append(float(value))
        tests.append(float(test))
        if not math.isfinite(reports[-1]):
            raise _Diverged
        watch(len(reports), reports[-1])

    began = time.perf_counter()
    try:
        with seeded(seed):
            training.train(make_optimizer, report, **options)
    except _Diverged:
        return TrainingRun(math.nan, math.nan, tuple(reports), time.perf_counter() - began)
    return TrainingRun(reports[-1], tests[-1], tuple(reports), time.perf_counter() - began)


@dataclass(frozen=True)
class Mean:
    """The mean cost over seeds.

    Attributes:
        cost: The mean cost.
        error: Its standard error; not a number for a single seed.
        count: The number of seeds.
    """

    cost: float
    error: float
    count: int


def shown_worse(costs: Sequence[float], reference: Sequence[float], margin: float) -> bool:
    """Return True if costs are shown to exceed others by more than a margin: a paired t test over the seeds, at 5 %.

    Example:
        >>> shown_worse([1.1, 1.3], [1.0, 1.0], 0.0), shown_worse([1.19, 1.21], [1.0, 1.0], 0.0)
        (False, True)
    """
    excess = np.asarray(costs) - np.asarray(reference) - margin
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess))
    return float(excess.mean()) > float(student_t.ppf(CONFIDENCE, len(excess) - 1)) * error


def mean_of(costs: Sequence[float]) -> Mean:
    """Return the mean of costs with its standard error.

    Example:
        >>> mean_of([1.0, 3.0])
        Mean(cost=2.0, error=1.0, count=2)
    """
    error = stdev(costs) / math.sqrt(len(costs)) if len(costs) > 1 else math.nan
    return Mean(fmean(costs), error, len(costs))
