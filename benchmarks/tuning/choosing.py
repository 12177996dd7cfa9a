"""The time of a comparison of eight contenders in two minutes, beside the same number of trainings driven by Optuna.

The baseline is what a careful user would write: for each contender a study of Optuna (TPE, ask and tell, in memory)
over the same space. Its trainings are a plain loop with torch's own optimizer, fused where torch has that. A few
trainings of each contender are measured, half of them before our comparison and half after it, with one thread and with
two; the faster counts. The time of as many trainings as ours is extrapolated from them. `make rivals` installs Optuna;
about ten minutes on two cores.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "calibration"))  # worker processes import the task from it, too
from bank import TASK

import thalweg
from benchmarks.tuning.optuna_space import suggest
from thalweg.bench.records import machine
from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.optim.settings import keywords
from thalweg.tasks import Task

RECORD = Path(__file__).parents[1] / "records" / "choosing.json"
NAMES = ("gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
ENTRANTS = {name: CONTENDERS[name] for name in NAMES}
PASSES = (9, 20)  # about 300 steps, and the passes of the built-in task
MAX_ORDER = 3  # every hyperparameter is searched
THREADS = (1, 2)
TORCH_OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "AdaGrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}
NOT_FUSED = {"RMSprop"}


def tensors(split: Any) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of a split of the task, which is held in memory."""
    inputs, targets = split
    return inputs, targets


def batches(task: Task, contender: Contender) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches without end, in a new order for each pass."""
    inputs, targets = tensors(task.splits.train)
    while True:
        if contender.full_batch:
            yield inputs, targets
            continue
        for index in torch.randperm(len(inputs)).split(task.batch_size):
            yield inputs[index], targets[index]


def train(task: Task, contender: Contender, settings: Settings, seed: int) -> float:
    """Train with a plain loop of torch, its learning rate falling linearly, and return the validation loss."""
    torch.manual_seed(seed)
    model = task.model()
    rule = contender.rule_at(settings)
    kind = type(rule).__name__
    fused = {} if kind in NOT_FUSED else {"fused": True}
    optimizer = TORCH_OPTIMIZERS[kind](model.parameters(), **keywords.from_rule(rule), **fused)
    (group,) = optimizer.param_groups
    lr = group["lr"]
    steps = task.passes * task.batches_per_pass(full_batch=contender.full_batch)
    for step, (inputs, targets) in zip(range(steps), batches(task, contender), strict=False):
        group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, targets = tensors(task.splits.validation)
        return float(functional.cross_entropy(model(inputs), targets))


@dataclass
class OptunaStudy:
    """A study of a contender.

    Attributes:
        task: The task.
        contender: The contender.
        study: The study of Optuna.
        seconds: The time of each training, with Optuna's own.
    """

    task: Task
    contender: Contender
    study: optuna.Study = field(default_factory=lambda: optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)))
    seconds: list[float] = field(default_factory=list)

    def train(self) -> None:
        """Train at the settings that Optuna suggests, and tell it the loss."""
        began = time.perf_counter()
        trial = self.study.ask()
        settings = {name: suggest(trial, name, bounds) for name, bounds in self.contender.space(MAX_ORDER).items()}
        loss = train(self.task, self.contender, settings, trial.number)
        self.study.tell(trial, loss if math.isfinite(loss) else math.inf)
        self.seconds.append(time.perf_counter() - began)


def train_in_turn(studies: dict[int, list[OptunaStudy]], trainings: int) -> None:
    """Train each contender this number of times more with each number of threads, in turn."""
    previous = torch.get_num_threads()
    for _ in range(trainings):
        for threads, members in studies.items():
            torch.set_num_threads(threads)
            for study in members:
                study.train()
    torch.set_num_threads(previous)


def measure(task: Task, trainings: int, budget: str) -> dict[str, Any]:
    """Run the comparison on a task and a sample of the studies, and return the row of the record."""
    studies = {threads: [OptunaStudy(task, contender) for contender in ENTRANTS.values()] for threads in THREADS}
    for contender in ENTRANTS.values():
        train(task, contender, {}, 0)  # the first training takes longer
    train_in_turn(studies, trainings // 2)
    began = time.perf_counter()
    comparison = thalweg.compare(task, list(ENTRANTS), budget=budget)
    wall_s = time.perf_counter() - began
    train_in_turn(studies, trainings - trainings // 2)

    trials = {
        summary.name: [trial for stage in summary.trials.values() for trial in stage]
        for summary in comparison.contenders
    }
    seconds = {
        name: {threads: statistics.median(members[k].seconds) for threads, members in studies.items()}
        for k, name in enumerate(ENTRANTS)
    }
    extrapolated_s = sum(len(trials[name]) * min(by_threads.values()) for name, by_threads in seconds.items())
    plan = comparison.plan
    return {
        "task": task.name,
        "passes": task.passes,
        "steps": {name: schedule.steps for name, schedule in plan.schedules.items()},
        "budget": budget,
        "wall_s": wall_s,
        "trainings": {name: len(trials[name]) for name in ENTRANTS},
        "optimizer_steps": sum(
            max((evaluation.step for evaluation in trial.result.evaluations), default=0)
            for members in trials.values()
            for trial in members
        ),
        "draws": plan.design.draws,
        "studies": plan.design.studies,
        "ranked": comparison.verdict.ranked is not None,
        "workers": plan.num_workers,
        "ways": {name: mode.reason for name, mode in plan.execution_modes.items()},
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
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for passes in arguments.passes:
        row = measure(replace(TASK, passes=passes), arguments.trainings, arguments.budget)
        rows.append(row)
        extrapolated_s = row["one_after_the_other"]["extrapolated_s"]
        print(
            f"{passes} passes: {sum(row['trainings'].values())} trainings in {row['wall_s']:.0f} s, one after another "
            f"{extrapolated_s:.0f} s (extrapolated from {arguments.trainings} of each): "
            f"{row['ours_by_extrapolated']:.3f}",
            flush=True,
        )
    record = {"rows": rows, "optuna": optuna.__version__, "machine": machine()}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
