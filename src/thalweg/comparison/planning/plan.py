"""Plan: design, ways, ranges and horizons, stored before the first study, so that resuming cannot change them.

A pilot trains each contender for a moment, one by one and as a population, and measures both; the plan keeps the
faster way and turns the budget into a design. Its learning rate is zero: it can neither help nor hurt. Where the budget
allows, a second part of the pilot looks whether the best learning rate lies within the range (`extend_lr_ranges`).
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning import budget
from thalweg.comparison.planning.lr_range_search import extend_lr_ranges
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.planning.pilot import ExecutionMode, measure, measure_function, time_of_update
from thalweg.comparison.planning.search import draws, order_opened_by
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.protocol.score_scale import ScoreScale, scale_for
from thalweg.comparison.training.pruning import drawn_for
from thalweg.comparison.training.target import LOOKS, REPORTS, Target
from thalweg.errors import SettingError, TaskError
from thalweg.rules import Range
from thalweg.tasks import Task, TrainingFunction

PROPOSAL_S = 0.4  # that a model takes for a setting it proposes
WORTH_EXPLORING = 100  # trainings of a contender; looking whether its range is wide enough takes up to 32


class Cost(NamedTuple):
    """What an optimizer keeps for each parameter, how slow its own step is, and how much there is to tune.

    Time counts in factors of two above the fastest: finer differences are the clock's noise.
    """

    state_numbers: int
    pace: int
    settings: int


@dataclass(frozen=True)
class ComparisonPlan:
    """What is to be done: the design; ways, spaces and horizons by contender; and the seed of it all.

    `draws` is how many settings a contender has in a study: one where it has nothing to search, more than the design's
    where most are given up early.
    `step_s` is what the optimizer's own step takes, where that could be measured.
    """

    seed: int
    design: Design
    scale: ScoreScale
    workers: int
    schedules: dict[str, TrainingSchedule]
    execution_modes: dict[str, ExecutionMode]
    ranges: dict[str, dict[str, Range]]
    extended: dict[str, int]
    draws: dict[str, int]
    step_s: dict[str, float]
    optimum: float | None
    target: Target | None
    selected_on: str
    judged_on: str

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ComparisonPlan":
        """The plan that `to_json` stored."""
        return cls(
            **stored
            | {
                "design": Design.from_json(stored["design"]),
                "scale": ScoreScale(**stored["scale"]),
                "target": stored["target"] and Target(**stored["target"]),
                "horizons": {name: TrainingSchedule(**schedule) for name, schedule in stored["horizons"].items()},
                "ways": {name: ExecutionMode(**mode) for name, mode in stored["ways"].items()},
                "ranges": {
                    name: {key: Range(**found) for key, found in ranges.items()}
                    for name, ranges in stored["ranges"].items()
                },
            }
        )

    def costs(self, described: Sequence[Mapping[str, Any]]) -> dict[str, Cost]:
        """What each contender costs, the more important first: for choosing among those that are as good."""
        fastest = min(self.step_s.values(), default=1.0)
        return {
            one["name"]: Cost(
                one["state_numbers"],
                math.floor(math.log2(self.step_s.get(one["name"], fastest) / fastest)),
                len(one["searched"]),
            )
            for one in described
        }

    def drawn_for(self, contender: Contender, study: int) -> list[Settings]:
        """The settings of a contender in a study. A single study starts with the contender's own defaults.

        Each contender has draws of its own, so that one that takes part twice shows what chance does (`--control`).
        """
        space = self.space_of(contender)
        return draws(
            contender,
            len(self.design.rounds(self.draws[contender.name])[0]),
            seed=derive(self.seed, f"draws/{contender.name}", study),
            with_start=not self.design.ranking,
            space=space,
        )

    def space_of(self, contender: Contender) -> dict[str, Range]:
        """Where this contender is searched."""
        extended = replace(contender, ranges={**contender.ranges, **self.ranges[contender.name]})
        return extended.space(order_opened_by(self.design.draws))


def make_plan(
    task: Task | TrainingFunction,
    contenders: Sequence[Contender],
    allowed: budget.Budget,
    *,
    seed: int,
    schedule: str,
    workers: int | None,
    prune: bool = False,
    refine: bool = False,
    target: float | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> ComparisonPlan:
    """Measure, then plan; raises TaskError for a task that cannot be trained, BudgetError for too small a budget."""
    began = time.perf_counter()
    seed_of_pilot = derive(seed, "pilot")
    schedules = {contender.name: schedule_of(task, contender, schedule) for contender in contenders}
    if target is not None:
        schedules = {name: replace(schedule, looks=LOOKS) for name, schedule in schedules.items()}
    execution_modes: dict[str, ExecutionMode] = {}
    step_s: dict[str, float] = {}
    scale: ScoreScale | None = None

    def predict(design: Design) -> float:
        """The cost of a design in which nobody is dropped, in the unit of the budget."""
        if allowed.steps is not None:
            return (design.most_trainings + design.value) * max(schedule.steps for schedule in schedules.values())
        if allowed.passes is not None:
            return (design.most_trainings + design.value) * (task.passes if isinstance(task, Task) else 1)
        extra = max((mode.seconds(design.value) for mode in execution_modes.values()), default=0.0)
        return time.perf_counter() - began + seconds_of_all(replace(design, pruned=prune, refined=refine)) + extra

    def seconds_of_all(design: Design) -> float:
        together: dict[Hashable, list[str]] = {}
        for contender in contenders:
            together.setdefault(contender.population_key, []).append(contender.name)
        found = (
            (next((execution_modes[name] for name in names if name in execution_modes), None), names)
            for names in together.values()
        )
        return sum(seconds_of_design(mode, design, len(names)) for mode, names in found if mode is not None)

    for contender in contenders:
        tell(contender.name)
        # A function of the user's takes as long for one optimizer as for another, as far as is known beforehand.
        if isinstance(task, TrainingFunction):
            if not execution_modes:
                execution_modes[contender.name], scale, reports = measure_function(task, contender, seed_of_pilot)
                schedules = {name: replace(schedule, steps=reports) for name, schedule in schedules.items()}
            execution_modes[contender.name] = next(iter(execution_modes.values()))
        else:
            # All rules train in one population, whose gradients are most of its time.
            like = next(one.name for one in contenders if one.population_key == contender.population_key)
            if like in execution_modes:
                execution_modes[contender.name] = execution_modes[like]
            else:
                execution_modes[contender.name], untrained = measure(
                    task, contender, schedules[contender.name], seed_of_pilot
                )
                scale = scale or scale_for(untrained, own_metric=task.metric is not None, dtype=_dtype(task))
            step_s[contender.name] = time_of_update(task, contender, seed_of_pilot)

        # A pilot that is over its budget has an answer already: too little.
        if allowed.seconds is not None and time.perf_counter() - began > allowed.seconds:
            budget.design(allowed, len(contenders), predict=predict)
    assert scale is not None
    aim = None if target is None else _aim(task, target, scale, next(iter(schedules.values())))
    unit = "steps" if allowed.steps is not None else "passes" if allowed.passes is not None else "s"
    hired = 1
    if isinstance(task, Task):
        planned = budget.design(allowed, len(contenders), predict=predict, unit=unit)
        hired, execution_modes = choose_num_workers(
            task, contenders, execution_modes, seconds_of_all(planned), seed_of_pilot, asked=workers
        )
    design = budget.design(allowed, len(contenders), predict=predict, unit=unit)
    ranges: dict[str, dict[str, Range]] = {contender.name: {} for contender in contenders}
    extended = dict.fromkeys(ranges, 0)
    if design.most_trainings >= WORTH_EXPLORING and isinstance(task, Task):
        tell("ranges")
        members = {name: mode.members for name, mode in execution_modes.items()}
        for name, (found, times) in extend_lr_ranges(task, contenders, schedules, members, seed_of_pilot).items():
            ranges[name], extended[name] = {"lr": found}, times
        design = budget.design(allowed, len(contenders), predict=predict, unit=unit)
    design = replace(design, pruned=prune, refined=refine)
    plan = ComparisonPlan(
        seed=seed,
        design=design,
        scale=scale if aim is None else ScoreScale("log", dict.fromkeys(scale.untrained, aim.whole)),
        workers=hired,
        schedules=schedules,
        execution_modes=execution_modes,
        ranges=ranges,
        extended=extended,
        draws={},
        step_s=step_s,
        optimum=task.optimum,
        target=aim,
        selected_on=task.selected_on,
        # How soon a loss is met is seen on the way, where the test is never looked at.
        judged_on=task.judged_on if aim is None else task.selected_on,
    )
    most = {one.name: drawn_for(design.draws, schedules[one.name]) if prune else design.draws for one in contenders}
    counted = {one.name: most[one.name] if plan.space_of(one) else 1 for one in contenders}
    return replace(plan, draws=counted)


def _dtype(task: Task) -> torch.dtype:
    return next(param.dtype for param in task.make_model(0).parameters() if param.requires_grad)


def _aim(task: Task | TrainingFunction, target: float, scale: ScoreScale, schedule: TrainingSchedule) -> Target:
    untrained = scale.untrained[task.selected_on]
    if not target < untrained:
        raise SettingError(
            f"{task.name}: the target must be below the {task.measured_as(task.selected_on)} before the first step, "
            f"{untrained:.4g}, got {target:g}."
        )
    if isinstance(task, TrainingFunction):
        return Target(target, task.selected_on, schedule.steps, REPORTS)
    return Target(target, task.selected_on, task.passes, "steps" if task.splits.train is None else "passes")


def seconds_of_design(mode: ExecutionMode, design: Design, contenders: int) -> float:
    """The predicted time of contenders none of which is dropped from the ranking, stage by stage as it is asked for.

    Of the race, each look after the first is counted for half of the contenders: long races are run by a few.
    """
    looks = design.ranking or (InterimAnalysis(1, 0.0),)
    done, run, total_s, stages = 0, 0, 0.0, [design.finalists * design.refinals, design.race[0].size]
    for look in looks:
        studies, done = look.size - done, look.size
        total_s += _seconds_of_search(mode, design, contenders * studies)
        stages += [studies * design.retrained * design.reseeds, studies * design.judged]
    for look in design.race:
        new, run = look.size - run, look.size
        stages.append(new if new == run else math.ceil(new / 2))
    return total_s + sum(mode.seconds(contenders * trainings) for trainings in stages)


def _seconds_of_search(mode: ExecutionMode, design: Design, studies: int) -> float:
    """The predicted time of the search of so many studies."""
    rounds = [len(trials) for trials in design.rounds(design.draws) if trials]
    if design.pruned:
        # As many steps of members as without, but each study is a population of its own, which ends as a small one.
        trained_s = studies * (len(rounds) * mode.fixed_s + design.draws * mode.member_s)
    else:
        trained_s = sum(mode.seconds(count * studies) for count in rounds)
    return trained_s + sum(rounds[1:]) * studies * PROPOSAL_S


def has_full_batch(task: Task | TrainingFunction) -> bool:
    """Whether all training data can be had in one batch."""
    return isinstance(task, Task) and (task.splits.train is None or isinstance(task.splits.train, tuple))


def schedule_of(task: Task | TrainingFunction, contender: Contender, schedule: str) -> TrainingSchedule:
    """How long this contender trains: as many passes over the data as the others."""
    if contender.full_batch and not has_full_batch(task):
        got = "got a DataLoader" if isinstance(task, Task) else "and the function makes its own batches"
        raise TaskError(
            f"{task.name}: {contender.name} needs all training data in one batch, {got}. Leave it out, or use sgd."
        )
    if isinstance(task, TrainingFunction):
        return TrainingSchedule(steps=1, schedule="constant", looks=1)
    steps = task.passes * task.batches_per_pass(full_batch=contender.full_batch)
    return TrainingSchedule(steps=steps, schedule=contender.schedule or schedule, looks=min(16, max(4, task.passes)))
