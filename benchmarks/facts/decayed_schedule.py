"""A decayed schedule overtakes a constant one at the end: a training read in the middle is no result."""

from typing import Any

from bank import TASK
from replay import share

from thalweg.comparison.contenders import parse
from thalweg.comparison.horizon import Horizon
from thalweg.comparison.runs import Trial
from thalweg.comparison.training import Result, train_all

RATES = [10 ** (-4 + 3 * k / 15) for k in range(16)]  # 1e-4 to 0.1
SEEDS = range(6)


def measure() -> dict[str, Any]:
    steps = TASK.passes * TASK.batches_per_pass()
    trials = [Trial({"lr": rate}, seed) for rate in RATES for seed in SEEDS]
    curves: dict[str, list[Result]] = {
        schedule: train_all(TASK, parse("adam"), trials, Horizon(steps, schedule, looks=2))
        for schedule in ("constant", "linear")
    }
    seen = {}
    for words, look in (("at half time", 1), ("at the end", 2)):
        pairs = zip(curves["constant"], curves["linear"], strict=True)
        found = share(one.looks[look].validation < other.looks[look].validation for one, other in pairs)
        seen[f"constant ahead {words}"] = [found["share"], found["low"], found["high"]]
    return {
        "claim": "a decayed schedule overtakes a constant one at the end",
        "setting": "digits, perceptron of width 32, Adam, 16 learning rates x 6 seeds, share of pairs, 95 % interval",
        "seen": seen,
    }
