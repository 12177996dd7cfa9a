"""Trainings a second: a population of 128 small networks in one program, beside the same trainings one by one.

The network is a perceptron of width 32 on digits, the optimizer Adam at 128 learning rates, each with a linear
schedule; one by one it is torch.optim's fused Adam. A round times a few steps of each. The script prints the ratios and
writes the record. With ``--device cuda`` it also times the population as a graph, without one, and on two cores.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from thalweg.bench import measure
from thalweg.bench.records import machine
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.runs import Run, SingleRun, Trial
from thalweg.engine.core import devices
from thalweg.engine.graphs import GraphCache
from thalweg.tasks import Task
from thalweg.tasks.built_in.digits import digits

RECORDS = Path(__file__).parents[1] / "records"
MEMBERS = 128
ROUNDS = 30
SCHEDULE = 100_000  # steps, so that the learning rate changes in every step of the benchmark
# In a round, about as long as the others; on a GPU more, since the host may be that far ahead.
STEPS = {"population": 5, "one by one": 60, "population, graph": 128, "population, eager": 20, "population, 2 cores": 5}
TARGETS = {"one by one": 50.0, "population, 2 cores": 5.0}  # of a population on a GPU, in trainings a second


def mlp() -> nn.Module:
    """Return a perceptron of width 32."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def population_on(task: Task, graphs: GraphCache | None = None) -> PopulationRun:
    """Return a population at 128 learning rates."""
    lrs = [1e-4 * 1.05**k for k in range(MEMBERS)]
    return PopulationRun(task, parse("adam"), [Trial({"lr": lr}, seed) for seed, lr in enumerate(lrs)], graphs)


def single_on(task: Task) -> SingleRun:
    """Return a training with torch's own optimizer."""
    alone = SingleRun(task, parse("adam"), Trial({"lr": 1e-3}, 0))
    alone.optimizer = torch.optim.Adam(alone.model.parameters(), lr=1e-3, fused=True)
    return alone


def steps_of(name: str, run: Run) -> Callable[[], None]:
    """Return a function that takes the steps of a round, and waits until they are done."""
    factors: Iterator[float] = iter([1 - step / SCHEDULE for step in range(SCHEDULE)])

    def take() -> None:
        run.advance([next(factors) for _ in range(STEPS[name])])
        run.synchronize()

    return take


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--record", type=Path, help="file of the record")
    arguments = parser.parse_args()
    device = devices.check(arguments.device)
    task = replace(digits(), name="digits of width 32", model=mlp)
    placed = task.on(device)
    runs: dict[str, Run] = {"one by one": single_on(placed)}
    if device.type == "cpu":
        runs["population"] = population_on(task)
    else:
        torch.set_num_threads(2)
        runs["population, graph"] = population_on(placed)
        runs["population, eager"] = population_on(placed, GraphCache(None))
        runs["population, 2 cores"] = population_on(task)
    functions = {name: steps_of(name, run) for name, run in runs.items()}
    for take in functions.values():
        take()
    time.sleep(2)  # for the kernel, which is compiled in the background
    times = measure.time_interleaved(functions, arguments.rounds)
    step_ms = {name: 1e3 * statistics.median(seconds) / STEPS[name] for name, seconds in times.items()}
    main_run = "population" if device.type == "cpu" else "population, graph"
    gains = {name: ms * (MEMBERS if name == "one by one" else 1) / step_ms[main_run] for name, ms in step_ms.items()}
    record = {
        "members": MEMBERS,
        "batch_size": task.batch_size,
        "device": devices.hardware(device),
        "execution": runs[main_run].execution,
        "step_ms": step_ms,
        "times_as_many_trainings_a_second": gains["one by one"],
        "gains": gains,
        "machine": machine(),
    }
    file = arguments.record or RECORDS / ("population.json" if device.type == "cpu" else "population_gpu.json")
    file.write_text(json.dumps(record, indent=1) + "\n")
    for name, ms in step_ms.items():
        target = f" (to reach: {TARGETS[name]:.0f})" if device.type != "cpu" and name in TARGETS else ""
        print(f"{name}: {ms:.3f} ms a step; {main_run} trains {gains[name]:.1f} times as many a second{target}")
    if runs[main_run].execution:
        print(f"{main_run}: {runs[main_run].execution}")


if __name__ == "__main__":
    main()
