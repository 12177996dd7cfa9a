"""Pilot: measure how fast each contender trains, before anything is planned.

A budget in seconds pays for the pilot, a tenth of it at most. Measurements that do not fit are left out: trainings then
run one by one. A training function has no pilot; its first trainings are the measurement.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.protocol.score_scale import Kind, ScoreScale, scale_for, untrained_value
from thalweg.comparison.training.timing import ExecutionMode, Measurement, TimeLeft, unlimited
from thalweg.comparison.training.workload import Workload
from thalweg.comparison.training.workload_record import SPLITS

SHARE = 0.08  # of a budget in seconds; with a last measurement that takes too long, it stays below a tenth
POPULATION_SHARE = 1 / 8  # of a budget in seconds: a population that takes longer is made smaller
NOT_MEASURED = "one by one: the budget is too short to measure this optimizer"


@dataclass(frozen=True)
class Pilot:
    """Measurements of a pilot.

    Attributes:
        execution_modes: The faster execution mode of each contender, with its times.
        step_s: Seconds of each optimizer's own step. Empty if there was no time to measure all of them.
        scale: Scale on which losses are compared.
        nominal_s: Seconds of a training by its counted work, of each contender that was measured.
    """

    execution_modes: dict[str, ExecutionMode]
    step_s: dict[str, float]
    scale: ScoreScale
    nominal_s: dict[str, float]


def run_pilot(
    workload: Workload,
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    seed: int,
    report: Callable[[str], None],
    time_left: TimeLeft = unlimited,
    measured: Mapping[Hashable, Measurement] | None = None,
) -> Pilot:
    """Train each contender for a moment and measure it.

    Args:
        workload: A workload that has a pilot.
        contenders: The contenders, at least one.
        schedules: Length of a training, by contender.
        seed: Seed of all pilot trainings.
        report: Called with the name of each contender before it is measured.
        time_left: Returns the seconds that are left for measurements. The first contender is measured in any case.
        measured: Measurements that are known already, by timing key.

    Raises:
        TaskError: If the workload cannot be trained.
    """
    measurements = dict(measured or {})
    modes: dict[str, ExecutionMode] = {}
    nominal_s: dict[str, float] = {}
    # If the time ends, the measured ones stand for the others: first those that most contenders share.
    shares = Counter(workload.timing_key(contender) for contender in contenders)
    for contender in sorted(contenders, key=lambda contender: -shares[workload.timing_key(contender)]):
        key, schedule = workload.timing_key(contender), schedules[contender.name]
        report(contender.name)
        if key not in measurements:
            if measurements and time_left() <= 0:
                first = next(iter(measurements.values()))
                single_s = first.single_s * schedule.steps / first.steps
                modes[contender.name] = ExecutionMode(1, 0.0, single_s, NOT_MEASURED)
                continue
            measurements[key] = workload.measure(contender, schedule, seed, time_left)
        modes[contender.name] = measurements[key].mode
        nominal_s[contender.name] = measurements[key].nominal_s
    return Pilot(
        execution_modes={contender.name: modes[contender.name] for contender in contenders},
        step_s=_update_times(workload, contenders, seed, time_left),
        scale=scale_of(workload, next(iter(measurements.values()))),
        nominal_s=nominal_s,
    )


def scale_of(workload: Workload, measurement: Measurement) -> ScoreScale:
    """Return the scale of a comparison, from the first values of its workload.

    Args:
        workload: The task or training function.
        measurement: Its first values: of the untrained model, or of the first trainings of a function.

    Raises:
        SettingError: If the workload asks for a logarithmic scale and a first value has no logarithm.
    """
    maximize = measurement.maximize
    prefers: Kind = "linear" if maximize or workload.has_own_metric else "log"
    untrained, baseline = measurement.untrained, measurement.untrained
    if not untrained:
        bound, first = untrained_value(measurement.reports, maximize=maximize, prefers=workload.scale or prefers)
        untrained, baseline = dict.fromkeys(SPLITS, bound), dict.fromkeys(SPLITS, first)
    return scale_for(
        untrained,
        (workload.selected_on, workload.judged_on),
        baseline=baseline,
        maximize=maximize,
        prefers=prefers,
        required=workload.scale,
        has_start=bool(measurement.untrained)
        or (measurement.steps > 1 and any(map(math.isfinite, chain(*measurement.reports)))),
        name=workload.name,
    )


def _update_times(
    workload: Workload, contenders: Sequence[Contender], seed: int, time_left: TimeLeft
) -> dict[str, float]:
    """Return the seconds of each optimizer's own step; of some alone they would be no basis for a comparison."""
    step_s: dict[str, float] = {}
    for contender in contenders:
        if time_left() <= 0:
            return {}
        # A kernel that is still being compiled is not waited for if time counts.
        update_s = workload.time_of_update(contender, seed, wait=time_left is unlimited)
        if update_s is not None:
            step_s[contender.name] = update_s
    return step_s


def fit_population(mode: ExecutionMode, budget_s: float | None) -> ExecutionMode:
    """Return an execution mode whose population does not take too large a part of a budget in seconds.

    Args:
        mode: The mode that was measured.
        budget_s: The budget; None if it is no time.
    """
    if budget_s is None or mode.members == 1 or mode.seconds(mode.members) <= POPULATION_SHARE * budget_s:
        return mode
    members = (POPULATION_SHARE * budget_s - mode.fixed_s) / mode.member_s if mode.member_s else 0.0
    return replace(mode, members=min(mode.members, max(2, int(members))))
