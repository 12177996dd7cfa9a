"""The bank: every setting of every contender trained from every seed, so that a protocol can be replayed on it.

`python benchmarks/calibration/bank.py` makes `bank.npz`: 1,024 quasi-random settings of each of five contenders, each
trained from the same 24 seeds, on digits by a perceptron of width 32, 300 steps (9 passes). The decisions of a protocol
can then be compared with the truth: the mean over the seeds. It takes about twenty minutes on two cores.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import qmc
from torch import nn

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks.built_in.digits import digits

BANK = Path(__file__).parent / "bank.npz"
CONTENDERS = ("sgd", "momentum", "adagrad", "rmsprop", "adamw")
SETTINGS, SEEDS = 1024, 24
MEMBERS = 192  # eight settings from 24 seeds
ORDER = 2  # the learning rate and the first momentum are open, as with 24 trials


def width_32() -> nn.Module:
    """Return a perceptron of width 32."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


TASK = replace(digits(), name="digits-32", model=width_32, passes=9)


def main() -> None:
    """Train the bank and write it."""
    workload = as_workload(TASK)
    schedule = TrainingSchedule(TASK.passes * TASK.batches_per_pass(), "linear", num_evaluations=1)
    seeds = [derive(0, "bank", k) for k in range(SEEDS)]
    untrained = workload.measure(parse("sgd"), schedule, seeds[0]).untrained
    ends = np.full((2, len(CONTENDERS), SETTINGS, SEEDS), np.nan, dtype=np.float32)
    jobs: dict[Job, tuple[int, int]] = {}
    settings = []
    for row, name in enumerate(CONTENDERS):
        contender = parse(name)
        space = contender.space(ORDER)
        points = qmc.Sobol(len(space), scramble=True, rng=row).random(SETTINGS)
        drawn = [
            {
                setting: bounds.value_at(float(position))
                for (setting, bounds), position in zip(space.items(), point, strict=True)
            }
            for point in points
        ]
        settings.append(drawn)
        size = MEMBERS // SEEDS
        for start in range(0, SETTINGS, size):
            trials = tuple(Trial(values, seed) for values in drawn[start : start + size] for seed in seeds)
            jobs[Job((contender,) * len(trials), trials, schedule, 10.0)] = (row, start)
    with WorkerPool(workload, 2, print) as pool:
        for done, (job, results) in enumerate(pool.run(list(jobs), lambda *_: None), 1):
            row, start = jobs[job]
            for k, result in enumerate(results):
                if result.status == "ok":
                    ends[:, row, start + k // SEEDS, k % SEEDS] = result.validation, result.test
            print(f"{done} of {len(jobs)} populations", file=sys.stderr)
    about = {"task": TASK.name, "steps": schedule.steps, "contenders": CONTENDERS, "untrained": untrained}
    about |= {"torch": torch.__version__, "settings": settings}
    np.savez_compressed(BANK, validation=ends[0], test=ends[1], about=json.dumps(about))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
