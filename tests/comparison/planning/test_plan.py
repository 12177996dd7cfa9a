"""The plan: its stored form, the costs by which contenders are chosen, and the five steps that make it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from thalweg.comparison.planning.forecast import Forecast, seconds_of_design
from torch import nn

from thalweg import tasks
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.planning import forecast as forecasts
from thalweg.comparison.planning import plan as plans
from thalweg.comparison.planning.budget import Budget, parse
from thalweg.comparison.planning.pilot import run_pilot
from thalweg.comparison.planning.plan import ComparisonPlan, Cost, make_plan
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.training.timing import ExecutionMode, Measurement
from thalweg.comparison.training.workload import FunctionWorkload, TaskWorkload, as_workload
from thalweg.errors import BudgetError, SettingError
from thalweg.rules import Range

# As version 4 of the store holds it; a change of a key makes every store unreadable. The keys of the device came later.
DEVICE = {"device": "cuda", "device_reason": "measured: 3.0x as fast", "num_devices": 2}
STORED = {
    "seed": 3,
    "design": {
        "draws": 12,
        "retrained": 3,
        "reseeds": 2,
        "judged": 2,
        "ranking": [[6, 0.05]],
        "finalists": 4,
        "refinals": 4,
        "race": [[10, 0.01], [20, 0.015]],
        "value": 20,
        "pruned": True,
        "refined": False,
    },
    "scale": {"kind": "log", "untrained": {"train": 9.0, "validation": 8.0, "test": 7.0}, "resolution": 1e-12},
    "workers": 2,
    "horizons": {
        "sgd": {"steps": 300, "schedule": "linear", "looks": 16},
        "adam": {"steps": 300, "schedule": "none", "looks": 4},
    },
    "ways": {
        "sgd": {"members": 128, "fixed_s": 0.25, "member_s": 0.5, "reason": "population of 128"},
        "adam": {"members": 1, "fixed_s": 0.0, "member_s": 1.5, "reason": "one by one"},
    },
    "ranges": {"sgd": {"lr": {"low": 1e-5, "high": 10.0, "scale": "log"}}, "adam": {}},
    "extended": {"sgd": 1, "adam": 0},
    "draws": {"sgd": 24, "adam": 12},
    "step_s": {"sgd": 0.001, "adam": 0.004},
    "optimum": None,
    "target": {"loss": 0.5, "split": "validation", "whole": 20.0, "unit": "passes"},
    "selected_on": "validation",
    "judged_on": "test",
}


def test_a_stored_plan_is_read_and_written_with_the_same_keys() -> None:
    plan = ComparisonPlan.from_json(STORED)
    assert json.loads(json.dumps(plan.to_json())) == STORED | {"device": "auto", "device_reason": "", "num_devices": 1}
    assert ComparisonPlan.from_json(STORED | DEVICE).to_json() == plan.to_json() | DEVICE
    assert plan.num_workers == 2
    assert plan.schedules["adam"].num_evaluations == 4
    assert plan.execution_modes["sgd"] == ExecutionMode(128, 0.25, 0.5, "population of 128")
    assert plan.ranges["sgd"]["lr"] == Range(1e-5, 10.0, "log")
    assert plan.times_extended == {"sgd": 1, "adam": 0}
    assert plan.target is not None
    assert plan.target.whole == 20.0
    without = STORED | {"target": None}
    assert ComparisonPlan.from_json(without).to_json()["target"] is None


def test_state_costs_more_than_pace_and_pace_more_than_settings() -> None:
    plan = ComparisonPlan.from_json(STORED)
    sgd, adam = (
        replace(CONTENDERS[name].describe(), searched=["lr"] * count) for name, count in (("sgd", 3), ("adam", 2))
    )
    assert plan.costs([sgd, adam]) == {"sgd": Cost(0, 0, 3), "adam": Cost(2, 2, 2)}
    assert Cost(0, 9, 9) < Cost(1, 0, 0)
    assert Cost(1, 0, 9) < Cost(1, 1, 0)


@pytest.mark.parametrize(("seconds", "pace"), [(0.0019, 0), (0.002, 1), (0.0079, 2), (0.008, 3)])
def test_pace_counts_in_powers_of_two_of_the_fastest(seconds: float, pace: int) -> None:
    plan = ComparisonPlan.from_json(STORED | {"step_s": {"sgd": 0.001, "adam": seconds}})
    assert plan.costs([CONTENDERS["adam"].describe()])["adam"].pace == pace


def test_a_contender_without_a_measured_step_counts_as_the_fastest() -> None:
    plan = ComparisonPlan.from_json(STORED | {"step_s": {}})
    assert plan.costs([CONTENDERS["adam"].describe()])["adam"].pace == 0


# The steps, on a workload whose measurements are made up.

MODE = ExecutionMode(4, 1.0, 0.5, "made up")


class MeasuredTask(TaskWorkload):
    """A task whose measurements are made up and counted."""

    measured: list[str]

    def __init__(self, task: tasks.Task) -> None:
        super().__init__(task)
        object.__setattr__(self, "measured", [])

    def measure(self, contender: Any, schedule: Any, seed: int) -> Measurement:
        self.measured.append(contender.name)
        return Measurement(MODE, dict.fromkeys(("train", "validation", "test"), 2.0), schedule.steps)

    def time_of_update(self, contender: Any, seed: int) -> float:
        return {"adam": 2e-3}.get(contender.name, 1e-3)

    def single_thread_slowdown(self, contender: Any, members: int, seed: int) -> float:
        return 1.0


@pytest.fixture
def workload() -> MeasuredTask:
    return MeasuredTask(replace(tasks.load("quadratic"), passes=60))


NAMES = ("gd", "sgd", "momentum", "muon", "adam")


def test_contenders_that_share_a_population_are_measured_once(workload: MeasuredTask) -> None:
    contenders = [CONTENDERS[name] for name in NAMES]
    schedules = {name: workload.training_schedule(CONTENDERS[name], "linear") for name in NAMES}
    reported: list[str] = []
    pilot = run_pilot(workload, contenders, schedules, 0, reported.append, lambda modes: None)
    assert workload.measured == ["gd", "sgd", "muon"]
    assert tuple(reported) == NAMES
    assert pilot.execution_modes == dict.fromkeys(NAMES, MODE)
    assert pilot.schedules == schedules
    assert pilot.step_s == dict.fromkeys(NAMES, 1e-3) | {"adam": 2e-3}
    assert pilot.scale.untrained["test"] == 2.0


def test_a_training_function_is_called_once_for_all_contenders_and_its_reports_are_its_steps() -> None:
    calls = []

    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        calls.append(1)
        make_optimizer([nn.Parameter(torch.ones(1))])
        for value in (2.0, 1.0, 0.5):
            report(value)

    function = as_workload(tasks.as_task(train))
    contenders = [CONTENDERS["sgd"], CONTENDERS["adam"]]
    plan = make_plan(function, contenders, parse("8trials"), seed=0, schedule="linear", num_workers=2)
    assert isinstance(function, FunctionWorkload)
    assert len(calls) == 1
    assert {schedule.steps for schedule in plan.schedules.values()} == {3}
    assert (plan.num_workers, plan.step_s, plan.times_extended) == (1, {}, {"sgd": 0, "adam": 0})
    assert plan.scale.untrained == dict.fromkeys(("train", "validation", "test"), 20.0)  # ten times the first report


def test_a_budget_in_seconds_pays_for_the_pilot_too(workload: MeasuredTask, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(forecasts.time, "perf_counter", lambda: clock[0])
    contenders = [CONTENDERS["sgd"], CONTENDERS["adam"]]
    forecast = Forecast(workload, contenders, Budget(seconds=60.0), {}, {}, start_s=100.0)
    forecast.check({})
    clock[0] = 160.0
    forecast.check({"sgd": MODE})  # not over the budget yet
    clock[0] = 160.1
    with pytest.raises(BudgetError, match="got 60s"):
        forecast.check({"sgd": MODE})
    Forecast(workload, contenders, Budget(trials=4), {}, {}, start_s=0.0).check({"sgd": MODE})


def test_costs_are_counted_in_the_unit_of_the_budget(workload: MeasuredTask, monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = [CONTENDERS["sgd"], CONTENDERS["gd"]]
    schedules = {name: workload.training_schedule(CONTENDERS[name], "linear") for name in ("sgd", "gd")}
    schedules["gd"] = replace(schedules["gd"], steps=20)
    design = forecasts.budget.ladder(2)[1]
    trainings = design.most_trainings + design.value
    assert Forecast(workload, contenders, Budget(steps=1), schedules).cost(design) == trainings * 60
    assert Forecast(workload, contenders, Budget(passes=1), schedules).cost(design) == trainings * 60
    monkeypatch.setattr(forecasts.time, "perf_counter", lambda: 7.0)
    modes = {"sgd": MODE, "gd": replace(MODE, member_s=2.0)}  # two populations: gd sees the full batch
    timed = Forecast(workload, contenders, Budget(seconds=1), schedules, modes, start_s=3.0)
    search = sum(seconds_of_design(modes[name], design, 1) for name in ("sgd", "gd"))
    assert timed.seconds(design) == search
    assert timed.cost(design) == pytest.approx(4.0 + search + modes["gd"].seconds(design.value))
    alone = Forecast(workload, [CONTENDERS["sgd"], CONTENDERS["adam"]], Budget(seconds=1), schedules, {"sgd": MODE})
    assert alone.seconds(design) == seconds_of_design(MODE, design, 2)  # adam shares the population of sgd


def test_seconds_of_a_design_by_hand() -> None:
    analyses = (InterimAnalysis(4, 0.02), InterimAnalysis(7, 0.03))
    design = Design(8, 2, 3, 5, (InterimAnalysis(2, 0.05),), 4, 6, analyses, 10)
    single = ExecutionMode(1, 0.0, 1.0, "")
    # 2 studies of 8 draws, 2 x 3 retrained and 5 judged; 4 x 6 finals; 4 seeds of the defaults; a race over 4 seeds,
    # and for half of the contenders over 3 more, rounded up.
    whole = 2 * (8 + 6 + 5) + 24 + 4 + 4 + 2
    assert seconds_of_design(single, design, 1) == whole
    assert seconds_of_design(single, design, 3) == 3 * whole
    stacked = ExecutionMode(16, 1.0, 0.0, "")
    # Populations of 16: 16 draws, 12 retrained, 10 judged, 24 finals, 4 of the defaults, 4 and 2 seeds of the race.
    assert seconds_of_design(stacked, design, 1) == 1 + 1 + 1 + 2 + 1 + 1 + 1
    # Each of two pruned studies is a population by itself.
    assert seconds_of_design(stacked, replace(design, pruned=True), 1) == 2 + 1 + 1 + 2 + 1 + 1 + 1
    refined = replace(design, refined=True)  # 4 draws, then proposals in 4 rounds of one
    assert seconds_of_design(single, refined, 1) == pytest.approx(whole + 2 * 4 * forecasts.PROPOSAL_S)


def plan_of(workload: MeasuredTask, names: tuple[str, ...], budget: str, **options: Any) -> ComparisonPlan:
    return make_plan(
        workload,
        [CONTENDERS[name].keeping_the_optimum() for name in names],
        parse(budget),
        **{"seed": 5, "schedule": "linear", "num_workers": 1, **options},
    )


def test_ranges_are_checked_from_a_hundred_trainings_on(
    workload: MeasuredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def extend(*arguments: Any) -> dict[str, tuple[Range, int]]:
        calls.append(arguments)
        return {"adam": (Range(1e-6, 1.0, "log"), 1)}

    monkeypatch.setattr(plans, "extend_lr_ranges", extend)
    reported: list[str] = []
    design = forecasts.budget.design(parse("128trials"), 1, predict=float)
    assert design.most_trainings >= plans.MIN_TRAININGS_FOR_RANGES == 100
    plan = plan_of(workload, ("adam",), "128trials", report=reported.append)
    assert len(calls) == 1
    assert reported == ["adam", "ranges"]
    assert plan.ranges == {"adam": {"lr": Range(1e-6, 1.0, "log")}}
    assert plan.times_extended == {"adam": 1}
    assert plan.space_of(CONTENDERS["adam"])["lr"].low == 1e-6
    small = next(k for k in range(1, 128) if most_trainings(k) >= 100)
    plan_of(workload, ("adam",), f"{small}trials")
    assert len(calls) == 2
    plan_of(workload, ("adam",), f"{small - 1}trials")
    assert len(calls) == 2
    for least, extended in ((most_trainings(small), 3), (most_trainings(small) + 1, 3)):
        monkeypatch.setattr(plans, "MIN_TRAININGS_FOR_RANGES", least)
        plan_of(workload, ("adam",), f"{small}trials")
        assert len(calls) == extended


def most_trainings(trials: int) -> int:
    return forecasts.budget.design(Budget(trials=trials), 1, predict=float).most_trainings


def test_a_contender_with_nothing_to_search_draws_one_setting(workload: MeasuredTask) -> None:
    plan = plan_of(workload, ("sgd", "lbfgs"), "8trials")
    assert plan.draws == {"sgd": 8, "lbfgs": 1}
    pruned = plan_of(workload, ("sgd", "lbfgs"), "8trials", prune=True)
    assert pruned.draws["sgd"] > 16
    assert pruned.draws["lbfgs"] == 1
    assert (pruned.design.pruned, pruned.design.refined) == (True, False)


def test_a_target_is_judged_on_the_way(workload: MeasuredTask) -> None:
    plan = plan_of(workload, ("sgd",), "8trials", target=0.5)
    assert plan.target is not None
    assert (plan.target.loss, plan.target.split, plan.target.whole, plan.target.unit) == (0.5, "train", 60, "steps")
    assert plan.scale.untrained == dict.fromkeys(("train", "validation", "test"), 60)
    assert plan.schedules["sgd"].num_evaluations == 32
    assert plan.judged_on == plan.selected_on == "train"
    with_test = MeasuredTask(tasks.load("breast-cancer"))
    assert plan_of(with_test, ("sgd",), "8trials").judged_on == "test"
    assert plan_of(with_test, ("sgd",), "8trials", target=0.5).judged_on == "validation"
    with pytest.raises(SettingError, match="must be below the training height before the first step, 2, got 2"):
        plan_of(workload, ("sgd",), "8trials", target=2.0)


def test_the_draws_of_a_study_follow_from_the_seed_the_contender_and_the_study(workload: MeasuredTask) -> None:
    plan = plan_of(workload, ("sgd", "momentum"), "8trials")
    sgd, momentum = CONTENDERS["sgd"], CONTENDERS["momentum"]
    assert plan.draw_settings(sgd, 0) == plan.draw_settings(sgd, 0)
    assert plan.draw_settings(sgd, 0)[1:] != plan.draw_settings(sgd, 1)[1:]
    assert plan.draw_settings(sgd, 0)[1:] != plan.draw_settings(momentum, 0)[1:]
    assert plan.draw_settings(sgd, 0)[0] == {"lr": 1e-3}  # a single study begins with the defaults
    ranked = plan_of(workload, ("sgd", "momentum"), "2x8trials")
    assert ranked.draw_settings(sgd, 0)[0] != {"lr": 1e-3}
    assert len(ranked.draw_settings(sgd, 0)) == 8
