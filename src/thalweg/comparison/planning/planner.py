"""Planner: make the plan of a comparison.

The pilot measures how fast each contender trains. Worker processes are used if they are clearly faster. The budget pays
for an adaptive search for a setting, and for a ranking before it if that fits. A training function has no pilot: its
plan is provisional until its first trainings, which belong to the search, have measured it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.budget import Budget, cost_of_ranking, ranked_design
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.device_choice import DeviceChoice, usable_devices
from thalweg.comparison.planning.lr_range_search import extend_lr_ranges, seconds_of_range_search
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.planning.pilot import SHARE, fit_population, run_pilot, scale_of
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.processes.stopping import OutOfTime, time_limit
from thalweg.comparison.protocol.design import Design, SettingDesign
from thalweg.comparison.protocol.score_scale import Margin, ScoreScale
from thalweg.comparison.training.pruning import num_draws_with_pruning
from thalweg.comparison.training.target import NUM_EVALUATIONS, Target
from thalweg.comparison.training.timing import ONE_BY_ONE, ExecutionMode, Measurement, TimeLeft, unlimited
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.errors import SettingError
from thalweg.rules import Range
from thalweg.tasks.user_code import as_task_error

MIN_TRAININGS_FOR_RANGES = 100  # of a contender; checking its learning rate range takes up to 32


@dataclass(frozen=True)
class Request:
    """The request for a comparison, as far as a plan depends on it.

    Attributes:
        budget: The budget.
        seed: Seed from which all other seeds are derived.
        schedule: Name of the learning rate schedule.
        num_workers: Processes that train; None measures whether more than one pay.
        prune: True to give up settings of a search that do badly early.
        refine: True to have a model propose the second half of the settings of a ranking's studies.
        target: Loss whose time counts; None if the final loss counts.
        margin: Difference that is too small to matter; None for the default.
        prefer: ``"best"``, or ``"cheap"`` to trade a difference within the margin for a lower cost.
        timeout_s: Seconds after which a training hangs; None for many times its usual duration.
    """

    budget: Budget
    seed: int = 0
    schedule: str = "linear"
    num_workers: int | None = None
    prune: bool = False
    refine: bool = False
    target: float | None = None
    margin: Margin | None = None
    prefer: Literal["best", "cheap"] = "best"
    timeout_s: float | None = None


@contextmanager
def pilot_limited(name: str, request: Request) -> Iterator[None]:
    """Raise TaskError in a ``with`` block, the pilot, that takes far longer than the request allows: the task hangs.

    Args:
        name: The name of the task, for the message.
        request: A timeout of a training allows ten of them; a budget in seconds allows three times itself and a minute.
    """
    budget_s = math.inf if request.budget.seconds is None else 60 + 3 * request.budget.seconds
    try:
        with time_limit(budget_s if request.timeout_s is None else 10 * request.timeout_s):
            yield
    except OutOfTime as error:
        raise as_task_error(f"{name}: the task must train", error) from error


def pilot_time(budget: Budget, clock: Clock) -> TimeLeft:
    """Return the function that says how many seconds the pilot may still take."""
    budget_s = budget.seconds
    return unlimited if budget_s is None else lambda: SHARE * budget_s - clock.elapsed_s


def make_plan(
    workload: Workload,
    contenders: Sequence[Contender],
    request: Request,
    *,
    report: Callable[[str], None] = lambda name: None,
    choice: DeviceChoice | None = None,
    clock: Clock | None = None,
) -> ComparisonPlan:
    """Measure the contenders and plan their comparison. The plan of a training function is provisional.

    Args:
        workload: The task or training function.
        contenders: The contenders, at least one.
        request: The request.
        report: Called with the name of each contender as it is measured, and with ``ranges``.
        choice: The device; None leaves data and models where the user's code makes them.
        clock: The clock of the comparison, which a budget in seconds counts from.

    Raises:
        TaskError: If the workload cannot be trained.
        SettingError: If the untrained model already meets the target.
    """
    choice = choice or DeviceChoice(devices.AUTO, "", workload)
    clock = clock or Clock(request.budget.seconds)
    workload, pilot_seed = choice.workload, derive(request.seed, "pilot")
    schedules = schedules_of(workload, contenders, request.schedule, request.target)
    names = [contender.name for contender in contenders]
    if not workload.has_pilot:
        modes = dict.fromkeys(names, ExecutionMode(1, 0.0, 0.0, ONE_BY_ONE))
        planned_s = request.budget.seconds if request.budget.seconds is not None else float("inf")
        workers, modes = choose_num_workers(
            workload, contenders, modes, planned_s, pilot_seed, requested=request.num_workers, device=choice.device
        )
        plan = _empty_plan(workload, request, choice, schedules, modes, workers)
        return replace(plan, is_provisional=True)
    time_left = pilot_time(request.budget, clock)
    pilot = run_pilot(workload, contenders, schedules, pilot_seed, report, time_left, choice.measurements)
    modes = {name: fit_population(mode, request.budget.seconds) for name, mode in pilot.execution_modes.items()}
    by_clock = request.budget.seconds is not None
    training_s = _training_s(modes) if by_clock else fmean(pilot.nominal_s.values())
    planned_s = _trainings(request.budget, schedules, workload, modes, clock) * training_s
    workers, modes = choose_num_workers(
        workload,
        contenders,
        modes,
        planned_s,
        pilot_seed,
        requested=request.num_workers,
        device=choice.device,
        time_left=time_left,
        by_clock=by_clock,
    )
    plan = _empty_plan(workload, request, choice, schedules, modes, workers)
    plan = replace(plan, scale=replace(pilot.scale, tolerance=request.margin), step_s=pilot.step_s)
    return _complete(plan, workload, contenders, request, clock, report)


def complete_plan(
    plan: ComparisonPlan,
    workload: Workload,
    contenders: Sequence[Contender],
    request: Request,
    measurement: Measurement,
    clock: Clock,
) -> ComparisonPlan:
    """Return a provisional plan completed with the measurement that its first trainings are.

    Args:
        plan: The provisional plan.
        workload: The training function.
        contenders: The contenders.
        request: The request.
        measurement: What the first trainings say of length, speed and scale.
        clock: The clock of the comparison.

    Raises:
        SettingError: If the target is met before the first step.
    """
    modes = {
        name: replace(mode, member_s=measurement.single_s / plan.num_workers)
        for name, mode in plan.execution_modes.items()
    }
    schedules = {name: replace(schedule, steps=measurement.steps) for name, schedule in plan.schedules.items()}
    scale = replace(scale_of(workload, measurement), tolerance=request.margin)
    plan = replace(
        plan,
        scale=scale,
        metric_name=measurement.metric_name,
        schedules=schedules,
        execution_modes=modes,
        is_provisional=False,
    )
    return _complete(plan, workload, contenders, request, clock)


def _empty_plan(
    workload: Workload,
    request: Request,
    choice: DeviceChoice,
    schedules: Mapping[str, TrainingSchedule],
    modes: Mapping[str, ExecutionMode],
    workers: int,
) -> ComparisonPlan:
    """Return the plan as far as it is known without a measurement of losses."""
    return ComparisonPlan(
        seed=request.seed,
        design=SettingDesign.for_trainings(request.budget.total(len(modes)), len(modes), stops=request.prune),
        scale=ScoreScale("log", {}),
        num_workers=workers,
        schedules=dict(schedules),
        execution_modes=dict(modes),
        ranges={name: {} for name in modes},
        times_extended=dict.fromkeys(modes, 0),
        draws={},
        step_s={},
        optimum=workload.optimum,
        target=None,
        selected_on=workload.selected_on,
        # The time to a loss is seen on the way, where the test split is never measured.
        judged_on=workload.judged_on if request.target is None else workload.selected_on,
        device=choice.device,
        device_reason=choice.reason,
        num_devices=len(usable_devices(choice.device)),
        budget=request.budget,
        prefer=request.prefer,
    )


def _complete(
    plan: ComparisonPlan,
    workload: Workload,
    contenders: Sequence[Contender],
    request: Request,
    clock: Clock,
    report: Callable[[str], None] = lambda name: None,
) -> ComparisonPlan:
    """Return the plan with its target and its designs, now that lengths, times and the scale are known."""
    budget, modes = request.budget, plan.execution_modes
    if request.target is not None:
        aim = _target(workload, request.target, plan.scale, plan.schedules)
        whole = dict.fromkeys(plan.scale.untrained, aim.whole)
        plan = replace(plan, target=aim, scale=ScoreScale("log", whole, tolerance=request.margin))

    def predict(design: Design) -> float:
        flagged = replace(design, pruned=request.prune, refined=request.refine)
        return cost_of_ranking(flagged, budget, contenders, plan.schedules, modes, workload.passes)

    def before(design: Design) -> float:
        checks_ranges = _checks_ranges(workload, design)
        return clock.elapsed_s + (seconds_of_range_search(contenders, plan.schedules, modes) if checks_ranges else 0.0)

    studies = ranked_design(budget, len(contenders), predict=predict, before=before)
    if studies is not None:
        studies = replace(studies, pruned=request.prune, refined=request.refine)
        plan = _with_ranges(replace(plan, ranking=studies), workload, contenders, report)
        plan = replace(plan, draws={contender.name: _num_draws(plan, studies, contender) for contender in contenders})
        if budget.seconds is None:
            return replace(plan, design=studies, ranking=None)
    trainings = _trainings(budget, plan.schedules, workload, modes, clock)
    if studies is not None:
        trainings -= predict(studies) / _training_s(modes)
    return replace(plan, design=SettingDesign.for_trainings(trainings, len(contenders), stops=request.prune))


def _training_s(modes: Mapping[str, ExecutionMode]) -> float:
    """Return the mean seconds of a training of these contenders in full populations."""
    return fmean(mode.seconds(mode.members) / mode.members for mode in modes.values())


def _trainings(
    budget: Budget,
    schedules: Mapping[str, TrainingSchedule],
    workload: Workload,
    modes: Mapping[str, ExecutionMode],
    clock: Clock,
) -> float:
    """Return the number of whole trainings that a budget pays for, all contenders together."""
    if budget.seconds is not None:
        left_s = clock.left_s
        assert left_s is not None
        return left_s / max(1e-9, _training_s(modes))
    steps = max(schedule.steps for schedule in schedules.values())
    return budget.in_trainings(len(modes), steps=steps, passes=workload.passes)


def _checks_ranges(workload: Workload, studies: Design) -> bool:
    """Return True if the ranges of learning rates are checked before these studies."""
    return workload.uses_range_search and studies.most_trainings >= MIN_TRAININGS_FOR_RANGES


def _with_ranges(
    plan: ComparisonPlan, workload: Workload, contenders: Sequence[Contender], report: Callable[[str], None]
) -> ComparisonPlan:
    """Return the plan of a ranking with learning rate ranges that are extended where the best value lies at an end."""
    assert plan.studies is not None
    if not _checks_ranges(workload, plan.studies):
        return plan
    report("ranges")
    members = {name: mode.members for name, mode in plan.execution_modes.items()}
    seed = derive(plan.seed, "pilot")
    extended: dict[str, tuple[Range, int]] = extend_lr_ranges(
        workload, contenders, plan.schedules, members, seed, maximize=plan.maximize
    )
    return replace(
        plan,
        ranges={name: {"lr": extended[name][0]} if name in extended else {} for name in members},
        times_extended={name: extended[name][1] if name in extended else 0 for name in members},
    )


def schedules_of(
    workload: Workload, contenders: Sequence[Contender], schedule: str, target: float | None
) -> dict[str, TrainingSchedule]:
    """Return the schedule of each contender; a target needs more evaluations on the way."""
    schedules = {contender.name: workload.training_schedule(contender, schedule) for contender in contenders}
    if target is None:
        return schedules
    return {name: replace(schedule, num_evaluations=NUM_EVALUATIONS) for name, schedule in schedules.items()}


def _target(workload: Workload, loss: float, scale: ScoreScale, schedules: Mapping[str, TrainingSchedule]) -> Target:
    """Return the target of this loss; raise SettingError if it is met before the first step."""
    untrained = scale.untrained[workload.selected_on]
    if not scale.is_improvement(loss, workload.selected_on):
        raise SettingError(
            f"{workload.name}: the target must be {'above' if scale.maximize else 'below'} the "
            f"{workload.measured_as(workload.selected_on)} before the first step, {untrained:.4g}, got {loss:g}."
        )
    return replace(workload.target(loss, next(iter(schedules.values()))), maximize=scale.maximize)


def _num_draws(plan: ComparisonPlan, studies: Design, contender: Contender) -> int:
    """Return the number of settings that a contender draws in a study."""
    if not plan.space_of(contender):
        return 1
    if not studies.pruned:
        return studies.draws
    return num_draws_with_pruning(studies.draws, plan.schedules[contender.name])
