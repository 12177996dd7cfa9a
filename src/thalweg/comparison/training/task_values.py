"""Trainings of a task whose own numbers are tuned: those that share the values of these numbers train together."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.tasks import Task
from thalweg.tasks.tuning import task_at


@dataclass(frozen=True)
class Part:
    """Trials that share the values of the task's tuned numbers, and how they train.

    Attributes:
        task: The task at these values.
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length of a training at these values.
        rungs: Points at which trainings are pruned, in its steps.
    """

    task: Task
    contenders: list[Contender]
    trials: list[Trial]
    schedule: TrainingSchedule
    rungs: Rungs | None


def train_by_values(
    task: Task,
    contenders: Contender | Sequence[Contender],
    trials: Sequence[Trial],
    schedule: TrainingSchedule,
    rungs: Rungs | None,
    train: Callable[[Part], list[TrainingResult]],
) -> list[TrainingResult]:
    """Train trials in parts that share the values of the task's tuned numbers.

    Evaluations and rungs are counted in batches of the default size, as if all trainings had these.

    Args:
        task: The task at the defaults of its numbers.
        contenders: One contender for all trials, or one for each.
        trials: Settings and seeds.
        schedule: Length of a training at these defaults.
        rungs: Points at which trainings are pruned, in steps of this length.
        train: Trains the trials of one part together.

    Returns:
        One result for each trial, in order.
    """
    contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else contenders
    parts: dict[Hashable, list[int]] = {}
    for place, (contender, trial) in enumerate(zip(contenders, trials, strict=True)):
        parts.setdefault(tuple(contender.task_values(trial.settings).items()), []).append(place)
    results: dict[int, TrainingResult] = {}
    for places in parts.values():
        part_contenders, part_trials = [contenders[k] for k in places], [trials[k] for k in places]
        contender = part_contenders[0]
        part_task = task_at(task, contender.task_values(part_trials[0].settings))
        per_pass = part_task.batches_per_pass(full_batch=contender.full_batch)
        ratio = per_pass / task.batches_per_pass(full_batch=contender.full_batch)
        steps = schedule.steps
        if (part_task.passes, ratio) != (task.passes, 1.0):
            steps = part_task.passes * per_pass
        part = Part(part_task, part_contenders, part_trials, replace(schedule, steps=steps), _in_steps_of(rungs, ratio))
        for place, result in zip(places, train(part), strict=True):
            evaluations = [replace(each, step=round(each.step / ratio)) for each in result.evaluations]
            uses = [OptimizerUse(schedule_steps=steps)] if contender.task_settings else []
            results[place] = replace(result, evaluations=evaluations, optimizers=uses)
            rungs = rungs and rungs.with_training(evaluations)
    return [results[place] for place in range(len(trials))]


def _in_steps_of(rungs: Rungs | None, ratio: float) -> Rungs | None:
    """Return rungs for trainings that take this many steps for each of the task's at its defaults."""
    if rungs is None or ratio == 1.0:
        return rungs
    return replace(
        rungs, earlier_losses={max(1, round(step * ratio)): losses for step, losses in rungs.earlier_losses.items()}
    )
