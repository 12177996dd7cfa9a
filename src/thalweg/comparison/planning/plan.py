"""ComparisonPlan: all decisions that are taken before the first study, stored so that resuming cannot change them.

Planning has five steps. The pilot measures how fast each contender trains. The budget pays for a design. Worker
processes are used if they are clearly faster. Learning rate ranges are extended where the best value lies at an end
(``extend_lr_ranges``). The plan holds the outcome.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.budget import Budget
from thalweg.comparison.planning.device_choice import DeviceChoice, usable_devices
from thalweg.comparison.planning.forecast import Forecast
from thalweg.comparison.planning.lr_range_search import extend_lr_ranges
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.planning.pilot import run_pilot
from thalweg.comparison.planning.search import draw_settings, order_opened_by
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.training.pruning import num_draws_with_pruning
from thalweg.comparison.training.target import NUM_EVALUATIONS, Target
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.errors import SettingError
from thalweg.rules import Range

MIN_TRAININGS_FOR_RANGES = 100  # of a contender; checking its learning rate range takes up to 32


class Cost(NamedTuple):
    """Cost of a contender. Of two that are as good, the one with the smaller tuple is recommended.

    Attributes:
        state_numbers: Numbers of optimizer state for each number of a matrix.
        pace: Seconds of the optimizer's own step, as a whole power of two of the fastest: finer differences are noise.
        settings: Number of settings to tune.
    """

    state_numbers: int
    pace: int
    settings: int


@dataclass(frozen=True)
class ComparisonPlan:
    """Plan of a comparison.

    Attributes:
        seed: Seed from which all other seeds are derived.
        design: Number of trainings of each kind.
        scale: Scale on which losses are compared.
        num_workers: Processes that train; 1 means this process alone.
        schedules: Length and learning rate schedule of a training, by contender.
        execution_modes: How trainings are run, by contender.
        ranges: Search ranges that replace the declared ones, by contender and setting.
        times_extended: Number of times that the learning rate range was extended, by contender.
        draws: Number of settings in a study, by contender: one if there is nothing to search, more than in the design
            if most are pruned.
        step_s: Seconds of the optimizer's own step, by contender, where it could be measured.
        optimum: The least training loss there is; None if it is unknown.
        target: The loss whose time counts; None if the final loss counts.
        selected_on: Split whose measure selects among settings.
        judged_on: Split whose measure evaluates the selected setting.
        device: ``"cpu"``; ``"cuda"`` for all devices of this kind; ``"cuda:1"`` for one of them; ``"auto"`` if the
            user's code decides, and in plans of old stores.
        device_reason: Reason for this device.
        num_devices: Number of devices when the plan was made.
    """

    seed: int
    design: Design
    scale: ScoreScale
    num_workers: int
    schedules: dict[str, TrainingSchedule]
    execution_modes: dict[str, ExecutionMode]
    ranges: dict[str, dict[str, Range]]
    times_extended: dict[str, int]
    draws: dict[str, int]
    step_s: dict[str, float]
    optimum: float | None
    target: Target | None
    selected_on: str
    judged_on: str
    device: str = devices.AUTO
    device_reason: str = ""
    num_devices: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON, for the store. The keys are those of the store's first version."""
        return {
            "seed": self.seed,
            "design": self.design.to_json(),
            "scale": self.scale.to_json(),
            "workers": self.num_workers,
            "horizons": {name: schedule.to_json() for name, schedule in self.schedules.items()},
            "ways": {name: asdict(mode) for name, mode in self.execution_modes.items()},
            "ranges": {
                name: {setting: bounds.to_json() for setting, bounds in ranges.items()}
                for name, ranges in self.ranges.items()
            },
            "extended": self.times_extended,
            "draws": self.draws,
            "step_s": self.step_s,
            "optimum": self.optimum,
            "target": None if self.target is None else asdict(self.target),
            "selected_on": self.selected_on,
            "judged_on": self.judged_on,
            "device": self.device,
            "device_reason": self.device_reason,
            "num_devices": self.num_devices,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ComparisonPlan":
        """Return the plan that ``to_json`` stored."""
        return cls(
            seed=stored["seed"],
            design=Design.from_json(stored["design"]),
            scale=ScoreScale(**stored["scale"]),
            num_workers=stored["workers"],
            schedules={name: TrainingSchedule.from_json(values) for name, values in stored["horizons"].items()},
            execution_modes={name: ExecutionMode(**values) for name, values in stored["ways"].items()},
            ranges={
                name: {setting: Range.from_json(bounds) for setting, bounds in ranges.items()}
                for name, ranges in stored["ranges"].items()
            },
            times_extended=stored["extended"],
            draws=stored["draws"],
            step_s=stored["step_s"],
            optimum=stored["optimum"],
            target=None if stored["target"] is None else Target(**stored["target"]),
            selected_on=stored["selected_on"],
            judged_on=stored["judged_on"],
            device=stored.get("device", devices.AUTO),
            device_reason=stored.get("device_reason", ""),
            num_devices=stored.get("num_devices", 1),
        )

    def costs(self, contenders: Sequence[ContenderRecord]) -> dict[str, Cost]:
        """Return the cost of each contender, by name."""
        fastest_s = min(self.step_s.values(), default=1.0)
        return {
            contender.name: Cost(
                contender.state_numbers,
                math.floor(math.log2(self.step_s.get(contender.name, fastest_s) / fastest_s)),
                len(contender.searched),
            )
            for contender in contenders
        }

    def draw_settings(self, contender: Contender, study: int) -> list[Settings]:
        """Return the settings that a contender draws in a study; a single study begins with the contender's defaults.

        Each contender has draws of its own, so that a contender that takes part twice shows the noise floor.
        """
        return draw_settings(
            contender,
            len(self.design.rounds(self.draws[contender.name])[0]),
            seed=derive(self.seed, f"draws/{contender.name}", study),
            with_start=not self.design.ranking,
            space=self.space_of(contender),
        )

    def space_of(self, contender: Contender) -> dict[str, Range]:
        """Return the search range of each setting that this plan searches."""
        extended = replace(contender, ranges={**contender.ranges, **self.ranges[contender.name]})
        return extended.space(order_opened_by(self.design.draws))


def make_plan(
    workload: Workload,
    contenders: Sequence[Contender],
    allowed: Budget,
    *,
    seed: int,
    schedule: str,
    num_workers: int | None = None,
    prune: bool = False,
    refine: bool = False,
    target: float | None = None,
    report: Callable[[str], None] = lambda name: None,
    choice: DeviceChoice | None = None,
) -> ComparisonPlan:
    """Measure the contenders and plan their comparison.

    Args:
        workload: The task or training function.
        contenders: The contenders, at least one.
        allowed: The budget.
        seed: Seed from which all other seeds are derived.
        schedule: Name of the learning rate schedule.
        num_workers: Processes that train; None measures whether more than one pay.
        prune: True to give up settings that do badly early.
        refine: True to have a model propose the second half of the settings.
        target: Loss whose time counts; None if the final loss counts.
        report: Called with the name of each contender as it is measured, and with ``ranges``.
        choice: The device; None leaves data and models where the user's code makes them.

    Raises:
        TaskError: If the workload cannot be trained.
        BudgetError: If the budget pays for no design.
        SettingError: If the untrained model already meets the target.
    """
    choice = choice or DeviceChoice(devices.AUTO, "", workload)
    workload, pilot_seed = choice.workload, derive(seed, "pilot")
    forecast = Forecast(
        workload,
        contenders,
        allowed,
        schedules_of(workload, contenders, schedule, target),
        pruned=prune,
        refined=refine,
        start_s=choice.start_s,
    )
    pilot = run_pilot(workload, contenders, forecast.schedules, pilot_seed, report, forecast.check, choice.measurements)
    aim = None if target is None else _target(workload, target, pilot.scale, pilot.schedules)
    forecast = replace(forecast, schedules=pilot.schedules, execution_modes=pilot.execution_modes)
    if workload.uses_workers:
        trainings_s = forecast.seconds(forecast.affordable_design())
        workers, modes = choose_num_workers(
            workload,
            contenders,
            pilot.execution_modes,
            trainings_s,
            pilot_seed,
            requested=num_workers,
            device=choice.device,
        )
        forecast = replace(forecast, execution_modes=modes)
    else:
        workers, modes = 1, pilot.execution_modes
    names = [contender.name for contender in contenders]
    design = forecast.affordable_design()
    extended: dict[str, tuple[Range, int]] = {}
    if workload.uses_range_search and design.most_trainings >= MIN_TRAININGS_FOR_RANGES:
        report("ranges")
        members = {name: mode.members for name, mode in modes.items()}
        extended = extend_lr_ranges(workload, contenders, pilot.schedules, members, pilot_seed)
        design = forecast.affordable_design()
    plan = ComparisonPlan(
        seed=seed,
        design=replace(design, pruned=prune, refined=refine),
        scale=pilot.scale if aim is None else ScoreScale("log", dict.fromkeys(pilot.scale.untrained, aim.whole)),
        num_workers=workers,
        schedules=pilot.schedules,
        execution_modes=modes,
        ranges={name: {"lr": extended[name][0]} if name in extended else {} for name in names},
        times_extended={name: extended[name][1] if name in extended else 0 for name in names},
        draws={},
        step_s=pilot.step_s,
        optimum=workload.optimum,
        target=aim,
        selected_on=workload.selected_on,
        # The time to a loss is seen on the way, where the test split is never measured.
        judged_on=workload.judged_on if aim is None else workload.selected_on,
        device=choice.device,
        device_reason=choice.reason,
        num_devices=len(usable_devices(choice.device)),
    )
    return replace(plan, draws={contender.name: _num_draws(plan, contender) for contender in contenders})


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
    if not loss < untrained:
        raise SettingError(
            f"{workload.name}: the target must be below the {workload.measured_as(workload.selected_on)} before the "
            f"first step, {untrained:.4g}, got {loss:g}."
        )
    return workload.target(loss, next(iter(schedules.values())))


def _num_draws(plan: ComparisonPlan, contender: Contender) -> int:
    """Return the number of settings that a contender draws in a study."""
    if not plan.space_of(contender):
        return 1
    if not plan.design.pruned:
        return plan.design.draws
    return num_draws_with_pruning(plan.design.draws, plan.schedules[contender.name])
