"""Trainings a second: a population of 128 small networks in one program, beside the same trainings one by one.

The network is a perceptron of width 32 on digits, the optimizer Adam at 128 learning rates; one by one it is
torch.optim's fused Adam. A round times a few steps of each. The script prints the ratio and writes the record.
"""

import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from thalweg.bench import measure
from thalweg.bench.bench import machine
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.tasks.digits import digits

RECORD = Path(__file__).parent / "records" / "population.json"
MEMBERS = 128
ROUNDS = 30
STEPS = {"population": 5, "one by one": 60}  # in a round, about as long


def mlp() -> nn.Module:
    """Return a perceptron of width 32."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def main() -> None:
    """Measure and write the record."""
    task = replace(digits(), name="digits of width 32", model=mlp)
    contender = parse("adam")
    lrs = [1e-4 * 1.05**k for k in range(MEMBERS)]
    population = PopulationRun(task, contender, [Trial({"lr": lr}, seed) for seed, lr in enumerate(lrs)])
    alone = SingleRun(task, contender, Trial({"lr": 1e-3}, 0))
    alone.optimizer = torch.optim.Adam(alone.model.parameters(), lr=1e-3, fused=True)

    def steps(name: str, run: SingleRun | PopulationRun) -> None:
        for _ in range(STEPS[name]):
            run.step(1.0)

    runs = {"population": partial(steps, "population", population), "one by one": partial(steps, "one by one", alone)}
    for step in runs.values():
        step()
    time.sleep(2)  # for the kernel, which is compiled in the background
    times = measure.time_interleaved(runs, ROUNDS)
    median = {name: statistics.median(seconds) / STEPS[name] for name, seconds in times.items()}
    gain = MEMBERS * median["one by one"] / median["population"]
    record = {
        "members": MEMBERS,
        "batch_size": task.batch_size,
        "step_ms": {name: 1e3 * seconds for name, seconds in median.items()},
        "times_as_many_trainings_a_second": gain,
        "machine": machine(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"population of {MEMBERS}: {1e3 * median['population']:.2f} ms a step")
    print(f"one by one: {1e3 * median['one by one']:.3f} ms a step, so {gain:.1f} times as many trainings a second")


if __name__ == "__main__":
    main()
