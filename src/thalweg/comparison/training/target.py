"""Target: measure how soon a training reaches a given loss, instead of where it ends.

A training that never reaches the target is censored: its time counts as a whole training, which is the least that it
would have needed, and it is shown as lost. It is never left out; otherwise optimizers that often fail would look fast.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thalweg.comparison.training.result import Evaluation, TrainingResult

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
    """

    loss: float
    split: str
    whole: float
    unit: str

    def time(self, evaluations: Sequence[Evaluation]) -> float:
        """Return the time from the start of a training to the target, in ``unit``; infinity if it was not reached."""
        # A training function may stop at the target: its last report is not the end of a whole training.
        length = self.whole if self.unit == REPORTS else evaluations[-1].step
        return self.whole * _step_at(evaluations, self.split, self.loss) / length

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
        least = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
        reached = f"the least that was seen is {least:.4g}" if math.isfinite(least) else "none had a finite one"
        return f"No training of the search met the target, a {measured} of {self.loss:g}: {reached}."

    def shortfall(self, evaluations: Sequence[Evaluation]) -> float:
        """Return how far a training ended from a target that it missed: 0 at the target, at most ``FARTHEST``."""
        last = getattr(evaluations[-1], self.split) if evaluations else math.nan
        if not math.isfinite(last):
            return FARTHEST
        return min(FARTHEST, math.log1p(abs(last - self.loss) / (abs(self.loss) or 1.0)))


def _step_at(evaluations: Sequence[Evaluation], split: str, target: float) -> float:
    """Return the step at which a loss first reaches the target, interpolated; infinity if it does not."""
    losses = [getattr(evaluation, split) for evaluation in evaluations]
    for k, loss in enumerate(losses):
        if loss <= target:
            step = evaluations[k].step
            if k == 0:
                return max(1.0, step)  # the target is met before the first step, but no training takes no time
            return step - _share_after(losses[k - 1], loss, target) * (step - evaluations[k - 1].step)
    return math.inf


def _share_after(before: float, after: float, target: float) -> float:
    """Return the share of the interval between two evaluations that lies after the target was reached."""
    if not math.isfinite(before):
        return 0.0
    if after > 0:
        before, after, target = math.log(before), math.log(after), math.log(target)
    return (target - after) / (before - after)
