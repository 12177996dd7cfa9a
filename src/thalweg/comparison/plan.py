"""Plan: counts, ways and horizons, decided and stored before the first trial, so that resuming cannot change them.

A pilot trains each contender for a moment, one by one and as a population, and measures both; the plan keeps the
faster way and turns the budget into counts. The pilot's learning rate is zero: it can neither help nor hurt.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from thalweg.comparison import budget
from thalweg.comparison.budget import Counts
from thalweg.comparison.contenders import Contender
from thalweg.comparison.horizon import Horizon
from thalweg.comparison.runs import OneByOne, Population, Run, Trial, unfit_for_population
from thalweg.comparison.seeds import derive
from thalweg.comparison.training import run_function
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction, seeded
from thalweg.tasks.task import blamed_on

POPULATION = 32  # members trained together: twice as many gain little more, and need twice the memory
LARGEST_STACKED = 2_000_000  # parameters of a model; beyond that, stacking 32 of them takes gigabytes and wins nothing
CLEARLY_FASTER = 2.0
PILOT_S = 0.15  # for each measurement


@dataclass(frozen=True)
class Way:
    """How one contender's trainings are run, and why. A population of n takes `fixed_s + n * member_s`."""

    members: int
    fixed_s: float
    member_s: float
    reason: str

    def seconds(self, trainings: int) -> float:
        """The predicted time of so many trainings."""
        return math.ceil(trainings / self.members) * self.fixed_s + trainings * self.member_s


@dataclass(frozen=True)
class Plan:
    """What is to be done: counts and ways by contender, horizons by contender, and the seed of it all."""

    seed: int
    counts: Counts
    horizons: dict[str, Horizon]
    ways: dict[str, Way]
    optimum: float | None
    selected_on: str
    judged_on: str

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Plan":
        """The plan that `to_json` stored."""
        return cls(
            **stored
            | {
                "counts": Counts(**stored["counts"]),
                "horizons": {name: Horizon(**horizon) for name, horizon in stored["horizons"].items()},
                "ways": {name: Way(**way) for name, way in stored["ways"].items()},
            }
        )


def make_plan(
    task: Task | TrainingFunction,
    contenders: Sequence[Contender],
    allowed: budget.Budget,
    *,
    seed: int,
    schedule: str,
    tell: Callable[[str], None] = lambda what: None,
) -> Plan:
    """Measure, then plan; raises TaskError for a task that cannot be trained, BudgetError for too small a budget."""
    began = time.perf_counter()
    seed_of_pilot = derive(seed, "pilot")
    horizons = {contender.name: horizon_of(task, contender, schedule) for contender in contenders}
    ways: dict[str, Way] = {}

    def predict(counts: Counts) -> float:
        stages = (counts.trials, counts.retrained * counts.reseeds, counts.finals)
        planned_s = sum(way.seconds(trainings) for way in ways.values() for trainings in stages)
        return time.perf_counter() - began + planned_s

    for contender in contenders:
        tell(contender.name)
        # A function of the user's takes as long for one optimizer as for another, as far as is known beforehand.
        ways[contender.name] = (
            next(iter(ways.values()), None) or measure_function(task, contender, allowed, seed_of_pilot)
            if isinstance(task, TrainingFunction)
            else measure(task, contender, horizons[contender.name], seed_of_pilot)
        )

        # A pilot that is over its budget has an answer already: too little, by about so much for each contender.
        if allowed.seconds is not None and time.perf_counter() - began > allowed.seconds:
            budget.counts(allowed, lambda counts: predict(counts) * len(contenders) / len(ways))

    return Plan(
        seed=seed,
        counts=budget.counts(allowed, predict),
        horizons=horizons,
        ways=ways,
        optimum=task.optimum,
        selected_on=task.selected_on,
        judged_on=task.judged_on,
    )


def has_full_batch(task: Task | TrainingFunction) -> bool:
    """Whether all training data can be had in one batch."""
    return isinstance(task, Task) and (task.splits.train is None or isinstance(task.splits.train, tuple))


def horizon_of(task: Task | TrainingFunction, contender: Contender, schedule: str) -> Horizon:
    """How long this contender trains: as many passes over the data as the others."""
    if contender.full_batch and not has_full_batch(task):
        got = "got a DataLoader" if isinstance(task, Task) else "and the function makes its own batches"
        raise TaskError(
            f"{task.name}: {contender.name} needs all training data in one batch, {got}. Leave it out, or use sgd."
        )
    if isinstance(task, TrainingFunction):
        return Horizon(steps=1, schedule="constant", looks=1)
    steps = task.passes * task.batches_per_pass(full_batch=contender.full_batch)
    return Horizon(steps=steps, schedule=schedule, looks=min(16, max(4, task.passes)))


def measure(task: Task, contender: Contender, horizon: Horizon, seed: int) -> Way:
    """Time a training one by one and as a population; the way, with its seconds for each training.

    A population must be clearly faster: near a tie the clock would decide, differently each time, and the two ways
    round sums differently, so that results would not repeat.
    """
    trial = Trial({}, seed)
    with seeded(seed):
        with blamed_on(f"{task.name}: the task must train"):
            single = OneByOne(task, contender, trial)
            buffers = {name: buffer.clone() for name, buffer in single.model.named_buffers()}
            check_losses(task, single, "before the first step,", ("train", "validation", "test"))
            alone_step_s = time_of_step(single)
            alone_s = time_of_training(single, horizon, alone_step_s)
            check_losses(task, single, "after a first step of length zero, so the gradient is at fault,", ("train",))
        reason = unfit_for_population(task, single.model)
        if any(not torch.equal(buffers.get(name, buffer), buffer) for name, buffer in single.model.named_buffers()):
            reason = "the model changes its buffers as it trains"
        if sum(param.numel() for param in single.model.parameters()) > LARGEST_STACKED:
            reason = reason or "the model is too large to stack"
        if reason is not None:
            return Way(1, 0.0, alone_s, f"one by one: {reason}")
        try:
            few, many = POPULATION // 4, POPULATION
            small = Population(task, contender, [trial] * few)
            few_step_s = time_of_step(small)
            if few_step_s > 2 * few * alone_step_s:
                # No larger population would make up for that, and a large one of a large model takes long to try.
                return Way(1, 0.0, alone_s, "one by one: a population is slower here")
            few_s = time_of_training(small, horizon, few_step_s)
            large = Population(task, contender, [trial] * many)
            many_s = time_of_training(large, horizon, time_of_step(large))
        except Exception as error:  # vmap refuses in many ways: the model then trains one by one
            summary = str(error).partition("\n")[0][:120]
            return Way(1, 0.0, alone_s, f"one by one: vmap cannot take the model ({type(error).__name__}: {summary})")
    gain = alone_s * many / many_s
    if gain < CLEARLY_FASTER:
        return Way(1, 0.0, alone_s, f"one by one: a population would be {gain:.1f}x as fast, not enough to matter")
    member_s = max(0.0, (many_s - few_s) / (many - few))
    return Way(many, many_s - many * member_s, member_s, f"population of {many} under vmap: {gain:.1f}x as fast here")


def check_losses(task: Task, run: Run, when: str, splits: Sequence[str]) -> None:
    """Raise TaskError unless what is measured on these splits is finite."""
    for split in splits:
        (loss,) = run.evaluate(split)
        if not math.isfinite(loss):
            raise TaskError(
                f"{task.name}: the {task.measured_as(split)} must be finite {when} got {loss}. "
                "Look at the data, the initial weights, the scale of the inputs and the loss function."
            )


def measure_function(task: TrainingFunction, contender: Contender, allowed: budget.Budget, seed: int) -> Way:
    """Time a user's training function by calling it once, where the budget is a time."""
    if allowed.seconds is None:
        return Way(1, 0.0, 0.0, "one by one: a training function of the user's")
    with seeded(seed), blamed_on(f"{task.name}: the function must train"):
        result = run_function(task, contender, Trial({}, seed))
    return Way(1, 0.0, result.seconds, "one by one: a training function of the user's")


def time_of_step(run: Run) -> float:
    """The seconds of a step, the first left out."""
    run.step(0.0)
    return seconds_of(lambda: run.step(0.0))


def time_of_training(run: Run, horizon: Horizon, step_s: float) -> float:
    """The predicted seconds of a whole training, from those of a step and of a look."""
    look_s = seconds_of(lambda: (run.evaluate("train"), run.evaluate("validation")))
    return horizon.steps * step_s + len(horizon.looked_at()) * look_s


def seconds_of(action: Callable[[], Any]) -> float:
    """The median seconds of an action, over as many calls as fit a moment.

    One call that the machine held up must not decide: a slow action is called three times if that is soon done.
    """
    taken: list[float] = []
    while not taken or sum(taken) < PILOT_S or (len(taken) < 3 and sum(taken) < 10 * PILOT_S):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return median(taken)
