"""Target: how soon a training comes to a loss that is good enough, instead of where it ends.

A training that never comes there is censored: it counts with its whole length, which it would have needed at least, and
is shown as lost. It is never left out, or those that often fail would look fast.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thalweg.comparison.training.result import Evaluation, TrainingResult

NUM_EVALUATIONS = 32  # on the way; between two of them the loss is taken to fall evenly in its logarithm
REPORTS = "reports"  # the unit of a training function, whose steps nobody sees
FARTHEST = 10.0


@dataclass(frozen=True)
class Target:
    """A loss on a split that is good enough, and the length of a whole training in a unit that a reader knows."""

    loss: float
    split: str
    whole: float
    unit: str

    def time(self, looks: Sequence[Evaluation]) -> float:
        """How long a training took to the target, in the unit; infinity if it never came there."""
        # A function of the user's may stop when it is there: its own last report is not the end of a whole training.
        length = self.whole if self.unit == REPORTS else looks[-1].step
        return self.whole * _step_at(looks, self.split, self.loss) / length

    def took(self, result: TrainingResult) -> float:
        """How long a training took to the target; infinity also if it was lost."""
        return self.time(result.evaluations) if result.status == "ok" else math.inf

    def missed_by_all(self, results: Iterable[TrainingResult], measured: str) -> str:
        """A sentence where no training met the target, with the least loss on the way; empty where one did."""
        results = list(results)
        if any(math.isfinite(self.took(result)) for result in results):
            return ""
        losses = [getattr(look, self.split) for result in results for look in result.evaluations]
        least = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
        seen = f"the least that was seen is {least:.4g}" if math.isfinite(least) else "none had a finite one"
        return f"No training of the search met the target, a {measured} of {self.loss:g}: {seen}."

    def shortfall(self, looks: Sequence[Evaluation]) -> float:
        """How far a training ended from a target it did not meet, for choosing among such: 0 is nearest."""
        last = getattr(looks[-1], self.split) if looks else math.nan
        if not math.isfinite(last):
            return FARTHEST
        return min(FARTHEST, math.log1p(abs(last - self.loss) / (abs(self.loss) or 1.0)))


def _step_at(looks: Sequence[Evaluation], split: str, target: float) -> float:
    losses = [getattr(look, split) for look in looks]
    for k, loss in enumerate(losses):
        if loss <= target:
            if k == 0:
                return max(1.0, looks[0].step)  # lucky before the first step; nothing takes no time
            return looks[k].step - _share_left(losses[k - 1], loss, target) * (looks[k].step - looks[k - 1].step)
    return math.inf


def _share_left(before: float, after: float, target: float) -> float:
    """How far from the second of two looks, on the way back to the first, the target was met."""
    if not math.isfinite(before):
        return 0.0
    if after > 0:
        before, after, target = math.log(before), math.log(after), math.log(target)
    return (target - after) / (before - after)
