"""Pruning: stop the trainings of settings that do badly early, within one contender's study and never across.

A rung is a share of the schedule. At each rung a training continues if it is among the best third of those of its study
that have reached the rung so far. A population reaches a rung together and is cut exactly. Trainings one after another
are compared with those before them, and the first always continues (Li et al. 2020, arXiv:1810.05934).

The saved steps go back to the same contender: it draws as many more settings as they pay for.

A search over all contenders stops less (`HopelessRungs`): a training ends early if it is clearly worse than all of the
best fifth were at the same point. Replays of stored curves chose this rule among those that stop
(`benchmarks/choosing_in_the_wild/stops.py`); replays of whole searches were better without.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import Evaluation

RUNG_SHARES = (1 / 9, 1 / 3)  # of the schedule
REDUCTION_FACTOR = 3  # one training in so many continues

FIRST_STOP = 0.15  # of a training: earlier reports say too little
STOP_SHARES = (0.25, 0.5)  # of a training whose evaluations we place ourselves
NUM_MODELS, MODEL_SHARE = 5, 0.2  # completed trainings that show what is normal: this share of all, so many at least


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


@dataclass(frozen=True)
class HopelessRungs(Rungs):
    """The points at which hopeless trainings of a search are stopped.

    A training is hopeless if it is worse than all models were at the same point, by more than these differ among
    themselves. Without models nothing is stopped; so trainings that report their end alone are never stopped.

    Attributes:
        models: The values of the completed trainings that ended best, by step.
    """

    models: tuple[Mapping[int, float], ...] = ()

    @classmethod
    def after(
        cls,
        split: str,
        completed: Iterable[Sequence[Evaluation]],
        steps: Iterable[int] = (),
        *,
        maximize: bool = False,
    ) -> "HopelessRungs":
        """Return the points at which a training is stopped if it is hopeless beside completed trainings.

        Args:
            split: Split whose values are compared.
            completed: The evaluations of each completed training. Trainings with a value that is not finite are
                ignored.
            steps: Steps at which a training is evaluated for this purpose (`stop_steps`). None for a training function,
                which reports where it likes.
            maximize: True if higher values are better.
        """
        values = [{each.step: float(getattr(each, split)) for each in evaluations} for evaluations in completed]
        curves = [curve for curve in values if curve and all(map(math.isfinite, curve.values()))]
        sign = -1 if maximize else 1
        count = max(NUM_MODELS, math.ceil(MODEL_SHARE * len(curves)))
        # Beside the best of hardly more than themselves nothing is hopeless.
        models = sorted(curves, key=lambda curve: sign * curve[max(curve)])[:count] if len(curves) > count else []
        points = {step for curve in models for step in curve if FIRST_STOP * max(curve) <= step < max(curve)}
        return cls(split, dict.fromkeys(sorted(points | set(steps)), ()), maximize, tuple(models))

    def survivors(self, step: int, losses: Sequence[float]) -> list[int]:
        """Return the indices of the trainings that are not hopeless.

        Args:
            step: The step, or the number of the report.
            losses: Values of the trainings that are there now.
        """
        sign = -1 if self.maximize else 1
        values = [sign * model[step] for model in self.models if step in model]
        if len(values) < NUM_MODELS:
            return list(range(len(losses)))
        worst = max(values) + (max(values) - min(values))
        return [k for k, loss in enumerate(losses) if sign * loss <= worst]

    def with_training(self, evaluations: Sequence[Evaluation]) -> "HopelessRungs":
        """Return these points: a training that has just ended does not count within its own batch."""
        return self


def stop_steps(schedule: TrainingSchedule) -> list[int]:
    """Return the steps at which a training of this length is evaluated so that it can be stopped."""
    steps = {round(share * schedule.steps) for share in STOP_SHARES}
    return sorted(step for step in steps if 0 < step < schedule.steps)


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
