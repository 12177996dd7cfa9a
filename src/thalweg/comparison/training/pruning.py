"""Pruning: settings that do badly early are given up. Inside one contender's study, never across.

A rung is a share of the schedule. At each, a training goes on if it is among the best third of those of its study that
have come there so far. A population comes to a rung together and is cut exactly; trainings one after the other are
judged by those before them, and the first goes on whatever it does (Li et al. 2020, arXiv:1810.05934).

What is saved goes back to the same contender: more settings are drawn, as many as the saved steps pay for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import Evaluation

SHARES = (1 / 9, 1 / 3)
KEPT = 3  # one in so many goes on


@dataclass(frozen=True)
class Rungs:
    """Where trainings are judged: after so many steps, by their losses on a split and by those of trainings before."""

    split: str
    before: Mapping[int, Sequence[float]]

    def kept(self, step: int, losses: Sequence[float]) -> list[int]:
        """Which of these trainings go on, in their order."""
        before = self.before[step]
        everyone = sorted((loss, place) for place, loss in enumerate([*before, *losses]) if not math.isnan(loss))
        best = {place for _, place in everyone[: math.ceil((len(before) + len(losses)) / KEPT)]}
        return [k for k in range(len(losses)) if len(before) + k in best]

    def with_(self, evaluations: Sequence[Evaluation]) -> "Rungs":
        """The same after one more training, which was looked at so."""
        met = {look.step: getattr(look, self.split) for look in evaluations}
        return replace(
            self,
            before={step: [*losses, *([met[step]] if step in met else [])] for step, losses in self.before.items()},
        )


def rungs_of(schedule: TrainingSchedule) -> list[int]:
    """The steps after which trainings of this length are judged."""
    steps = {round(share * schedule.steps) for share in SHARES}
    return sorted(step for step in steps if 0 < step < schedule.steps)


def cost(draws: int, schedule: TrainingSchedule) -> float:
    """What so many pruned trainings of this length cost, in whole ones."""
    total, left, done = 0.0, draws, 0
    for step in (*rungs_of(schedule), schedule.steps):
        total += left * (step - done) / schedule.steps
        left, done = math.ceil(left / KEPT), step
    return total


def num_draws_with_pruning(draws: int, schedule: TrainingSchedule) -> int:
    """How many settings may be drawn with pruning at the cost of so many without: as many, where there is no rung."""
    pruned = draws
    while rungs_of(schedule) and cost(pruned + 1, schedule) <= draws:
        pruned += 1
    return pruned
