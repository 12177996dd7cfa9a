"""A decayed schedule overtakes a constant one at the end: losses in the middle of a training do not rank schedules."""

from typing import Any

from bank import TASK
from replay import share

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload

RATES = [0.003 * 100 ** (k / 15) for k in range(16)]  # a tenth to ten times the best
SEEDS = range(6)
PASSES = 40


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    steps = PASSES * TASK.batches_per_pass()
    trials = [Trial({"lr": rate}, seed) for rate in RATES for seed in SEEDS]
    curves: dict[str, list[TrainingResult]] = {
        schedule: as_workload(TASK).train(parse("adam"), trials, TrainingSchedule(steps, schedule, num_evaluations=2))
        for schedule in ("constant", "linear")
    }
    seen = {}
    for words, index in (("at half time", 1), ("at the end", 2)):
        pairs = zip(curves["constant"], curves["linear"], strict=True)
        ahead = share(
            constant.evaluations[index].validation < linear.evaluations[index].validation for constant, linear in pairs
        )
        seen[f"constant ahead {words}"] = [ahead["share"], ahead["low"], ahead["high"]]
    return {
        "claim": "a decayed schedule overtakes a constant one at the end",
        "setting": "digits, width 32, Adam, 40 passes, 16 learning rates x 6 seeds, share of pairs with 95 % interval",
        "seen": seen,
    }
