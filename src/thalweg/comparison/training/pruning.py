"""Pruning: stop the trainings of settings that do badly early, within one contender's study and never across.

A rung is a share of the schedule. At each rung a training continues if it is among the best third of those of its study
that have reached the rung so far. A population reaches a rung together and is cut exactly. Trainings one after another
are compared with those before them, and the first always continues (Li et al. 2020, arXiv:1810.05934).

The saved steps go back to the same contender: it draws as many more settings as they pay for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import Evaluation

RUNG_SHARES = (1 / 9, 1 / 3)  # of the schedule
REDUCTION_FACTOR = 3  # one training in so many continues


@dataclass(frozen=True)
class Rungs:
    """The points at which trainings are pruned.

    Attributes:
        split: Split whose losses are compared.
        earlier_losses: Losses of earlier trainings of the study, by the number of steps at which a rung lies.
        maximize: True if higher values are better.
    """

    split: str
    earlier_losses: Mapping[int, Sequence[float]]
    maximize: bool = False

    def survivors(self, step: int, losses: Sequence[float]) -> list[int]:
        """Return the indices of the trainings that continue.

        Args:
            step: The rung, in steps.
            losses: Losses of the trainings that are at the rung now.
        """
        earlier = self.earlier_losses[step]
        sign = -1 if self.maximize else 1
        values = enumerate([*earlier, *losses])
        ranked = sorted((sign * loss, place) for place, loss in values if not math.isnan(loss))
        best = {place for _, place in ranked[: math.ceil((len(earlier) + len(losses)) / REDUCTION_FACTOR)]}
        return [k for k in range(len(losses)) if len(earlier) + k in best]

    def with_training(self, evaluations: Sequence[Evaluation]) -> "Rungs":
        """Return the rungs after one more training with these evaluations."""
        losses = {evaluation.step: getattr(evaluation, self.split) for evaluation in evaluations}
        return replace(
            self,
            earlier_losses={
                step: [*earlier, losses[step]] if step in losses else list(earlier)
                for step, earlier in self.earlier_losses.items()
            },
        )


def rungs_of(schedule: TrainingSchedule) -> list[int]:
    """Return the numbers of steps at which trainings of this length are pruned, in order."""
    steps = {round(share * schedule.steps) for share in RUNG_SHARES}
    return sorted(step for step in steps if 0 < step < schedule.steps)


def cost_with_pruning(draws: int, schedule: TrainingSchedule) -> float:
    """Return the cost of a number of pruned trainings, in whole trainings of this length."""
    total, remaining, done = 0.0, draws, 0
    for step in (*rungs_of(schedule), schedule.steps):
        total += remaining * (step - done) / schedule.steps
        remaining, done = math.ceil(remaining / REDUCTION_FACTOR), step
    return total


def num_draws_with_pruning(draws: int, schedule: TrainingSchedule) -> int:
    """Return the number of settings that cost as much with pruning as ``draws`` settings cost without.

    A schedule too short for a rung leaves the number as it is.
    """
    pruned = draws
    while rungs_of(schedule) and cost_with_pruning(pruned + 1, schedule) <= draws:
        pruned += 1
    return pruned
