"""A learning rate shared by two optimizers flips their ranking; tuned, they tie (Choi 2019, arXiv:1910.05446)."""

from typing import Any

from bank import TASK

from thalweg import statistics
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload

SEEDS = range(8)
RATES = [10 ** (-4 + k / 4) for k in range(17)]  # 1e-4 to 1


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    schedule = TrainingSchedule(TASK.passes * TASK.batches_per_pass(), "linear", num_evaluations=1)
    seen = {}
    for name in ("adam", "momentum"):
        trials = [Trial({"lr": rate}, seed) for rate in RATES for seed in SEEDS]
        results = as_workload(TASK).train(parse(name), trials, schedule)
        by_rate = {rate: results[k * len(SEEDS) : (k + 1) * len(SEEDS)] for k, rate in enumerate(RATES)}
        best = min(RATES, key=lambda rate: sum(result.validation for result in by_rate[rate]))
        shared = min(RATES, key=lambda rate: abs(rate - 1e-3))
        for words, rate in (("at 1e-3", shared), (f"tuned ({best:.2g})", best)):
            loss = statistics.interval([result.test for result in by_rate[rate]])
            seen[f"{name} {words}"] = [loss.mean, loss.low, loss.high]
    return {
        "claim": "a shared learning rate flips a ranking; tuned, they tie",
        "setting": "digits, perceptron of width 32, 300 steps, linear decay, mean test loss of 8 seeds, 95 % interval",
        "seen": seen,
    }
