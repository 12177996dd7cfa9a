"""Pilot: measure how fast each contender trains, before anything is planned."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.protocol.score_scale import ScoreScale, scale_for
from thalweg.comparison.training.timing import ExecutionMode, Measurement
from thalweg.comparison.training.workload import Workload


@dataclass(frozen=True)
class Pilot:
    """Measurements of a pilot.

    Attributes:
        schedules: Schedule of each contender; a training function's steps are known only now.
        execution_modes: The faster execution mode of each contender, with its times.
        step_s: Seconds of each optimizer's own step, where it can be measured.
        scale: Scale on which losses are compared.
    """

    schedules: dict[str, TrainingSchedule]
    execution_modes: dict[str, ExecutionMode]
    step_s: dict[str, float]
    scale: ScoreScale


def run_pilot(
    workload: Workload,
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    seed: int,
    report: Callable[[str], None],
    check_budget: Callable[[Mapping[str, ExecutionMode]], None],
    measured: Mapping[Hashable, Measurement] | None = None,
) -> Pilot:
    """Train each contender for a moment and measure it.

    Args:
        workload: The task or training function.
        contenders: The contenders, at least one.
        schedules: Length of a training, by contender.
        seed: Seed of all pilot trainings.
        report: Called with the name of each contender before it is measured.
        check_budget: Called after each contender with the execution modes so far; raises BudgetError to stop.
        measured: Measurements that are known already, by timing key.

    Raises:
        TaskError: If the workload cannot be trained.
        BudgetError: If ``check_budget`` raises it.
    """
    measurements = dict(measured or {})
    execution_modes: dict[str, ExecutionMode] = {}
    step_s: dict[str, float] = {}
    for contender in contenders:
        report(contender.name)
        key = workload.timing_key(contender)
        if key not in measurements:
            measurements[key] = workload.measure(contender, schedules[contender.name], seed)
        execution_modes[contender.name] = measurements[key].mode
        update_s = workload.time_of_update(contender, seed)
        if update_s is not None:
            step_s[contender.name] = update_s
        check_budget(execution_modes)
    untrained = next(iter(measurements.values())).untrained
    return Pilot(
        schedules={
            contender.name: replace(schedules[contender.name], steps=measurements[workload.timing_key(contender)].steps)
            for contender in contenders
        },
        execution_modes=execution_modes,
        step_s=step_s,
        scale=scale_for(untrained, own_metric=workload.has_own_metric, dtype=workload.dtype()),
    )
