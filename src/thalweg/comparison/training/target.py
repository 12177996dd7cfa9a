"""Target: measure how soon a training reaches a given loss, instead of where it ends.

A training that never reaches the target is censored: its time counts as a whole training, which is the least that it
would have needed, and it is shown as lost. It is never left out; otherwise optimizers that often fail would look fast.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.tasks.measurement import with_article

NUM_EVALUATIONS = 32  # on the way; between two of them the logarithm of the loss is interpolated
REPORTS = "reports"  # the unit of a training function, whose steps are hidden
FARTHEST = 10.0


@dataclass(frozen=True)
class Target:
    """A loss that is good enough.

    Attributes:
        loss: The loss to reach.
        split: Split on which it is measured.
        whole: Length of a whole training, in ``unit``.
        unit: ``passes``, ``steps`` or ``reports``.
        maximize: True if higher values are better: the target is reached from below.
    """

    loss: float
    split: str
    whole: float
    unit: str
    maximize: bool = False

    def time(self, evaluations: Sequence[Evaluation]) -> float:
        """Return the time from the start of a training to the target, in ``unit``; infinity if it was not reached."""
        # A training function may stop at the target: its last report is not the end of a whole training.
        length = self.whole if self.unit == REPORTS else evaluations[-1].step
        return self.whole * self._step_at(evaluations) / length

    def time_of(self, result: TrainingResult) -> float:
        """Return the time of a training to the target, in ``unit``; infinity if it was not reached or was lost."""
        return self.time(result.evaluations) if result.status == "ok" else math.inf

    def missed_by_all(self, results: Iterable[TrainingResult], measured: str) -> str:
        """Return a sentence if no training reached the target, else an empty text.

        Args:
            results: All trainings of the search.
            measured: Name of the measured quantity, e.g. ``validation loss``.
        """
        results = list(results)
        if any(math.isfinite(self.time_of(result)) for result in results):
            return ""
        losses = [getattr(evaluation, self.split) for result in results for evaluation in result.evaluations]
        finite = [loss for loss in losses if math.isfinite(loss)]
        words, nearest = ("most", max) if self.maximize else ("least", min)
        reached = f"the {words} that was seen is {nearest(finite):.4g}" if finite else "none had a finite one"
        return f"No training of the search met the target, {with_article(measured)} of {self.loss:g}: {reached}."

    def shortfall(self, evaluations: Sequence[Evaluation]) -> float:
        """Return how far a training ended from a target that it missed: 0 at the target, at most ``FARTHEST``."""
        last = getattr(evaluations[-1], self.split) if evaluations else math.nan
        if not math.isfinite(last):
            return FARTHEST
        return min(FARTHEST, math.log1p(abs(last - self.loss) / (abs(self.loss) or 1.0)))

    def _step_at(self, evaluations: Sequence[Evaluation]) -> float:
        """Return the step at which a value first reaches the target, interpolated; infinity if it does not."""
        values = [getattr(evaluation, self.split) for evaluation in evaluations]
        for k, value in enumerate(values):
            if value >= self.loss if self.maximize else value <= self.loss:
                step = evaluations[k].step
                if k == 0:
                    return max(1.0, step)  # the target is met before the first step, but no training takes no time
                # Losses fall by factors; a value that grows is interpolated as it is.
                share = _share_after(values[k - 1], value, self.loss, by_factors=value > 0 and not self.maximize)
                return step - share * (step - evaluations[k - 1].step)
        return math.inf


def _share_after(before: float, after: float, target: float, *, by_factors: bool) -> float:
    """Return the share of the interval between two evaluations that lies after the target was reached."""
    if not math.isfinite(before):
        return 0.0
    if by_factors:
        before, after, target = math.log(before), math.log(after), math.log(target)
    return (target - after) / (before - after)
