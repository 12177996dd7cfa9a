"""Explanation: why a training of a comparison diverged or learnt nothing, from its first steps, watched once more."""

import math

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.monitoring import clues, watch
from thalweg.tasks import Task

STEPS = 100  # that are watched: most trainings that diverge do so early
EVERY = 5


def is_lost(result: TrainingResult) -> bool:
    """Return True if a training diverged, or its training loss ended no lower than it began."""
    if result.status == "diverged":
        return True
    return result.status == "ok" and bool(result.evaluations) and result.train >= result.evaluations[0].train


def explain(task: Task, contender: Contender, trial: Trial, schedule: TrainingSchedule) -> str:
    """Train the first steps again, watch them, and return the reason in a few words; empty if none is seen.

    Args:
        task: The task.
        contender: The contender.
        trial: Its settings and its seed.
        schedule: Its schedule.
    """
    try:
        run = SingleRun(task, contender, trial)
        with watch(run.model, run.optimizer, every=EVERY) as monitor:
            for done in range(min(STEPS, schedule.steps)):
                run.step(schedule.lr_factor(done))
                monitor.step(run.last_loss)
                if not math.isfinite(float(run.last_loss)):
                    break
        return next((_in_words(clue) for clue in clues(monitor.record) if clue.certainty != "possible"), "")
    except Exception:  # the training has its result: that it cannot be explained is no failure of it
        return ""


def _in_words(clue: Clue) -> str:
    where = f" in {clue.where}" if clue.where else ""
    return f"{KINDS[clue.kind].title}{where}, since step {clue.since}"
