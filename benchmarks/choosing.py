"""What two minutes buy: eight contenders compared, beside as many trainings one after the other, driven by Optuna.

The other way is what a careful user would write: for each contender a study of Optuna (TPE, ask and tell, in memory)
over the same space, whose trainings are a plain loop with torch's own optimizer, fused where torch has that. A few
trainings of each contender are measured, half of them before our comparison and half after it, with one thread and with
two; the faster counts. What as many trainings as ours would take is extrapolated from them. `make rivals` installs
Optuna; about ten minutes on two cores.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent / "calibration"))  # workers import the task from there, too
from bank import TASK

import thalweg
from thalweg.bench.bench import machine
from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.optim import keywords
from thalweg.rules import Range
from thalweg.tasks import Task

RECORD = Path(__file__).parent / "records" / "choosing.json"
PASSES = (9, 20)  # about 300 steps, and as many as the built-in task has
ALL = 3  # the order by which every hyperparameter is open
THREADS = (1, 2)
TORCHS = {
    "SGD": torch.optim.SGD,
    "AdaGrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}
NOT_FUSED = {"RMSprop"}


def batches(task: Task, contender: Contender) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches without end, in a new order each time the data are through."""
    inputs, targets = task.splits.train
    while True:
        if contender.full_batch:
            yield inputs, targets
            continue
        for index in torch.randperm(len(inputs)).split(task.batch_size):
            yield inputs[index], targets[index]


def train(task: Task, contender: Contender, settings: Settings, seed: int) -> float:
    """The validation loss after a plain loop of torch, the learning rate falling linearly."""
    torch.manual_seed(seed)
    model = task.model()
    rule = contender.rule.with_(**settings)
    kind = type(rule).__name__
    fused = {} if kind in NOT_FUSED else {"fused": True}
    optimizer = TORCHS[kind](model.parameters(), **keywords.from_rule(rule), **fused)
    (group,) = optimizer.param_groups
    lr = group["lr"]
    steps = task.passes * task.batches_per_pass(full_batch=contender.full_batch)
    for step, (inputs, targets) in zip(range(steps), batches(task, contender), strict=False):
        group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, targets = task.splits.validation
        return float(functional.cross_entropy(model(inputs), targets))


def suggested(trial: optuna.Trial, name: str, found: Range) -> float:
    """A value in a range, on the range's own scale."""
    if found.scale == "log-to-one":
        return 1 - trial.suggest_float(f"1 - {name}", 1 - found.high, 1 - found.low, log=True)
    return trial.suggest_float(name, found.low, found.high, log=found.scale == "log")


@dataclass
class Driven:
    """A contender's study, and the seconds of its trainings, Optuna's own included."""

    task: Task
    contender: Contender
    study: optuna.Study = field(default_factory=lambda: optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)))
    seconds: list[float] = field(default_factory=list)

    def train(self) -> None:
        began = time.perf_counter()
        trial = self.study.ask()
        settings = {name: suggested(trial, name, found) for name, found in self.contender.space(ALL).items()}
        loss = train(self.task, self.contender, settings, trial.number)
        self.study.tell(trial, loss if math.isfinite(loss) else math.inf)
        self.seconds.append(time.perf_counter() - began)


def one_after_the_other(studies: dict[int, list[Driven]], trainings: int) -> None:
    """So many more trainings of each contender, by turns with each number of threads."""
    before = torch.get_num_threads()
    for _ in range(trainings):
        for threads, driven in studies.items():
            torch.set_num_threads(threads)
            for one in driven:
                one.train()
    torch.set_num_threads(before)


def measured(task: Task, trainings: int, budget: str) -> dict[str, Any]:
    """Both ways on a task."""
    studies = {threads: [Driven(task, one) for one in CONTENDERS.values()] for threads in THREADS}
    for contender in CONTENDERS.values():
        train(task, contender, {}, 0)  # the first of everything takes longer
    one_after_the_other(studies, trainings // 2)
    began = time.perf_counter()
    found = thalweg.compare(task, list(CONTENDERS), budget=budget)
    wall_s = time.perf_counter() - began
    one_after_the_other(studies, trainings - trainings // 2)

    made = {one.name: [entry for some in one.trials.values() for entry in some] for one in found.contenders}
    seconds = {
        name: {threads: statistics.median(driven[k].seconds) for threads, driven in studies.items()}
        for k, name in enumerate(CONTENDERS)
    }
    extrapolated_s = sum(len(made[name]) * min(each.values()) for name, each in seconds.items())
    plan = found.plan
    return {
        "task": task.name,
        "passes": task.passes,
        "steps": {name: horizon.steps for name, horizon in plan.schedules.items()},
        "budget": budget,
        "wall_s": wall_s,
        "trainings": {name: len(made[name]) for name in CONTENDERS},
        "optimizer_steps": sum(
            max((look.step for look in entry.result.evaluations), default=0) for each in made.values() for entry in each
        ),
        "draws": plan.design.draws,
        "studies": plan.design.studies,
        "ranked": found.verdict.ranked is not None,
        "workers": plan.num_workers,
        "ways": {name: backend.reason for name, backend in plan.execution_modes.items()},
        "one_after_the_other": {
            "measured_trainings": {"of each contender": trainings, "with threads": list(THREADS)},
            "median_s_of_a_training": seconds,
            "extrapolated_s": extrapolated_s,
        },
        "ours_by_extrapolated": wall_s / extrapolated_s,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=12, help="of each contender, to extrapolate from")
    parser.add_argument("--passes", type=int, nargs="+", default=PASSES, help="over the data, in a training")
    parser.add_argument("--budget", default="2m", help="of our comparison")
    parser.add_argument("--out", type=Path, default=RECORD)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for passes in asked.passes:
        row = measured(replace(TASK, passes=passes), asked.trainings, asked.budget)
        rows.append(row)
        other_s = row["one_after_the_other"]["extrapolated_s"]
        print(
            f"{passes} passes: {sum(row['trainings'].values())} trainings in {row['wall_s']:.0f} s, one after another "
            f"{other_s:.0f} s (extrapolated from {asked.trainings} of each): {row['ours_by_extrapolated']:.3f}",
            flush=True,
        )
    record = {"rows": rows, "optuna": optuna.__version__, "machine": machine()}
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
