"""Measure how often training reaches the good minimum, with and without each escape of a diagnosis.

`python benchmarks/tuning/escape.py` writes `benchmarks/records/escape.json`; some minutes on one core, or with
`--quick` some seconds without a record. A start is a seed. Each escape is the change that a diagnosis offers for a
plateau, at its defaults, on the same starts and as many steps:

- Rastrigin and Ackley in two dimensions from anywhere within 4 of the minimum, by Adam: the minimum is reached if the
  lowest height of the last 20 steps is below that of any other minimum.
- Modular addition by plain SGD, which stays on the plateau where it begins: the model adds if its accuracy on unseen
  pairs is at least 0.9 at the end.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thalweg.bench.bench import machine
from thalweg.diagnosis.changes import ESCAPES, Change
from thalweg.diagnosis.run_training import plain_step
from thalweg.tasks import Training, load

RECORD = Path(__file__).parents[1] / "records" / "escape.json"
# The heights of the second lowest minima are 0.995 and 2.580.
HEIGHTS = {"rastrigin": 0.99, "ackley": 2.57}
LEAST_ACCURACY = 0.9


@dataclass(frozen=True)
class Problem:
    """A training with a poor minimum.

    Attributes:
        name: The name of its task.
        lr: The learning rate of Adam, for modular addition of SGD.
        steps: The number of steps.
        starts: The number of starts.
        make: Makes the training of a seed.
        value: Returns the value that counts at the end, of the training and its last losses.
        is_good: Says whether a value is that of the good minimum.
    """

    name: str
    lr: float
    steps: int
    starts: int
    make: Callable[["Problem", int], Training]
    value: Callable[[Training, list[float]], float]
    is_good: Callable[[float], bool]


def surface(problem: Problem, seed: int) -> Training:
    """Return the training of a point on a surface."""
    model = load(problem.name).make_model(seed)
    batches = itertools.repeat((torch.zeros(()),))
    return Training(model, torch.optim.Adam(model.parameters(), lr=problem.lr), batches, lambda output, target: output)


def lowest(training: Training, losses: list[float]) -> float:
    """Return the lowest of the last losses."""
    return min(losses)


def addition(problem: Problem, seed: int) -> Training:
    """Return the training of modular addition."""
    task = load(problem.name)
    model = task.make_model(seed)
    pairs, sums = task.splits.train
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Any:
        while True:
            for rows in torch.randperm(len(pairs), generator=generator).split(256)[:-1]:
                yield pairs[rows], sums[rows]

    optimizer = torch.optim.SGD(model.parameters(), lr=problem.lr)
    return Training(model, optimizer, batches(), torch.nn.functional.cross_entropy)


def accuracy(training: Training, losses: list[float]) -> float:
    """Return the share of right sums of unseen pairs."""
    pairs, sums = load("modular-addition").splits.test
    with torch.no_grad():
        return (training.model(pairs).argmax(1) == sums).float().mean().item()


PROBLEMS = (
    Problem("rastrigin", 0.05, 400, 30, surface, lowest, lambda height: height < HEIGHTS["rastrigin"]),
    Problem("ackley", 0.05, 400, 30, surface, lowest, lambda height: height < HEIGHTS["ackley"]),
    Problem("modular-addition", 0.3, 1000, 6, addition, accuracy, lambda share: share >= LEAST_ACCURACY),
)


def train(problem: Problem, seed: int, change: Change | None) -> float:
    """Return the value that counts after a training from a start."""
    torch.manual_seed(seed)
    training = problem.make(problem, seed)
    if change is not None:
        change.apply(training, None)
    losses = []
    batches = iter(training.batches)
    for _ in range(problem.steps):
        step = training.step
        batch = next(batches)
        losses.append(float(plain_step(training, *batch) if step is None else step(training, *batch)))
    return problem.value(training, losses[-20:])


def main() -> None:
    """Train from all starts with and without each escape, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two starts of each problem, no record")
    quick = parser.parse_args().quick
    results: dict[str, Any] = {}
    for problem in PROBLEMS:
        starts = 2 if quick else problem.starts
        rows: dict[str, Any] = {}
        for change in (None, *ESCAPES):
            values = [train(problem, seed, change) for seed in range(starts)]
            name = "as it is" if change is None else change.name
            rows[name] = {"reached": sum(map(problem.is_good, values)), "median": statistics.median(values)}
            reached = f"{rows[name]['reached']:3d} of {starts}"
            print(f"{problem.name:18s} {name:34s} {reached}   median {rows[name]['median']:.3g}", flush=True)
        results[problem.name] = {"starts": starts, "steps": problem.steps, "lr": problem.lr, "rows": rows}
    if not quick:
        RECORD.write_text(json.dumps({"machine": machine(), "problems": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
