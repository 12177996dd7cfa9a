"""The plan: its stored form, the costs by which contenders are chosen, and the five steps that make it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from thalweg import tasks
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.planning import budget as budgets
from thalweg.comparison.planning import pilot as pilots
from thalweg.comparison.planning import planner as planners
from thalweg.comparison.planning.budget import (
    RANKED,
    RANKING_LIMIT,
    RANKING_SHARE,
    Budget,
    cost_of_ranking,
    parse,
    ranked_design,
    seconds_of_studies,
)
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.lr_range_search import seconds_of_range_search
from thalweg.comparison.planning.pilot import run_pilot
from thalweg.comparison.planning.plan import ComparisonPlan, Cost
from thalweg.comparison.planning.planner import Request, complete_plan, make_plan, pilot_time
from thalweg.comparison.protocol.design import Design, InterimAnalysis, SettingDesign
from thalweg.comparison.training import timing
from thalweg.comparison.training.timing import ExecutionMode, Measurement
from thalweg.comparison.training.workload import FunctionWorkload, TaskWorkload, as_workload
from thalweg.errors import SettingError
from thalweg.rules import Range

# As version 4 of the store holds it; a change of a key makes every store unreadable. The keys of the device came later.
DEVICE = {"device": "cuda", "device_reason": "measured: 3.0x as fast", "num_devices": 2}
STORED: dict[str, Any] = {
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

# What such a store lacks, as it is read.
ADDED = {
    "device": "auto",
    "device_reason": "",
    "num_devices": 1,
    "budget": None,
    "ranking": None,
    "provisional": False,
    "prefer": "cheap",
    "metric_name": "",
    "scale": STORED["scale"]
    | {"maximize": False, "baseline": {}, "span": None, "tolerance": None, "planned": None, "has_start": True},
    "target": STORED["target"] | {"maximize": False},
}


def test_a_stored_plan_is_read_and_written_with_the_same_keys() -> None:
    plan = ComparisonPlan.from_json(STORED)
    assert json.loads(json.dumps(plan.to_json())) == STORED | ADDED
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

    def measure(self, contender: Any, schedule: Any, seed: int, time_left: Any = None) -> Measurement:
        self.measured.append(contender.name)
        return Measurement(MODE, dict.fromkeys(("train", "validation", "test"), 2.0), schedule.steps, 2.5)

    def time_of_update(self, contender: Any, seed: int, *, wait: bool = True) -> float:
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
    pilot = run_pilot(workload, contenders, schedules, 0, reported.append)
    assert workload.measured == ["sgd", "gd", "muon"]  # first the one that most contenders share
    assert sorted(reported) == sorted(NAMES)
    assert pilot.execution_modes == dict.fromkeys(NAMES, MODE)
    assert pilot.step_s == dict.fromkeys(NAMES, 1e-3) | {"adam": 2e-3}
    assert pilot.scale.untrained["test"] == 2.0


def test_the_plan_of_a_training_function_is_provisional_and_trains_nothing() -> None:
    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        raise AssertionError("there is no pilot")

    function = as_workload(tasks.as_task(train))
    contenders = [CONTENDERS["sgd"], CONTENDERS["adam"]]
    plan = make_plan(function, contenders, Request(parse("60s"), num_workers=2))
    assert isinstance(function, FunctionWorkload)
    assert (plan.is_provisional, plan.num_workers, plan.step_s) == (True, 2, {})
    assert ComparisonPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    clock = Clock(60.0, read=lambda: 7.0)
    seconds = Measurement(
        ExecutionMode(1, 0.0, 3.0, ""),
        {},
        5,
        3.0,
        reports=(
            (
                2.0,
                1.0,
            ),
        ),
    )
    done = complete_plan(plan, function, contenders, Request(parse("60s")), seconds, clock)
    assert not done.is_provisional
    assert {schedule.steps for schedule in done.schedules.values()} == {5}
    # Two processes, 3 s each: 1.5 s for a training, in the 58.8 s that are left beside the reserve.
    assert {mode.member_s for mode in done.execution_modes.values()} == {1.5}
    assert done.design == SettingDesign.for_trainings(58.8 / 1.5, 2)
    assert done.scale.untrained == dict.fromkeys(("train", "validation", "test"), 20.0)  # ten times the first report
    assert (done.ranking, done.draws) == (None, {})
    ranked = complete_plan(plan, function, contenders, Request(parse("2x4trials")), seconds, clock)
    assert isinstance(ranked.design, Design)
    assert (ranked.design.studies, ranked.draws) == (2, {"sgd": 4, "adam": 4})


def test_a_pilot_without_time_measures_one_contender_and_leaves_out_the_rest(workload: MeasuredTask) -> None:
    contenders = [CONTENDERS[name] for name in NAMES]
    schedules = {name: workload.training_schedule(CONTENDERS[name], "linear") for name in NAMES}
    schedules["gd"] = replace(schedules["gd"], steps=30)
    pilot = run_pilot(workload, contenders, schedules, 0, lambda name: None, time_left=lambda: 0.0)
    assert workload.measured == ["sgd"]
    assert list(pilot.execution_modes) == list(NAMES)
    assert pilot.execution_modes["sgd"] == pilot.execution_modes["adam"] == MODE
    assert pilot.execution_modes["muon"] == ExecutionMode(1, 0.0, 2.5, pilots.NOT_MEASURED)
    assert pilot.execution_modes["gd"] == ExecutionMode(1, 0.0, 1.25, pilots.NOT_MEASURED)  # half as many steps
    assert pilot.step_s == {}  # of some alone it would be no comparison


def test_the_pilot_may_take_less_than_a_tenth_of_a_time_and_as_long_as_it_needs_of_a_count() -> None:
    readings = [100.0]
    clock = Clock(60.0, read=lambda: readings[0])
    time_left = pilot_time(parse("60s"), clock)
    assert time_left() == pytest.approx(4.8)
    readings[0] = 104.9
    assert time_left() < 0
    assert pilot_time(parse("16trials"), clock)() == float("inf")


@pytest.mark.parametrize(
    ("budget_s", "members"),
    [(None, 32), (80.0, 32), (79.9, 31), (24.0, 4), (1.0, 2)],  # 2 s and 0.25 s for each: 10 s in all, an eighth of 80
)
def test_a_population_takes_no_large_part_of_a_time(budget_s: float | None, members: int) -> None:
    fitted = pilots.fit_population(ExecutionMode(32, 2.0, 0.25, ""), budget_s)
    assert fitted == ExecutionMode(members, 2.0, 0.25, "")
    assert pilots.fit_population(ExecutionMode(1, 0.0, 99.0, ""), budget_s).members == 1


def test_costs_of_a_ranking_are_counted_in_the_unit_of_the_budget(workload: MeasuredTask) -> None:
    contenders = [CONTENDERS["sgd"], CONTENDERS["gd"]]
    schedules = {name: workload.training_schedule(CONTENDERS[name], "linear") for name in ("sgd", "gd")}
    schedules["gd"] = replace(schedules["gd"], steps=20)
    modes = {"sgd": MODE, "gd": replace(MODE, member_s=2.0)}  # two populations: gd sees the full batch
    design = RANKED[0]
    trainings = design.most_trainings + design.value
    for allowed in (Budget(steps=1), Budget(passes=1)):
        assert cost_of_ranking(design, allowed, contenders, schedules, modes, 60) == trainings * 60
    of_each = sum(seconds_of_studies(modes[name], design, 1) for name in ("sgd", "gd"))
    assert cost_of_ranking(design, Budget(seconds=1), contenders, schedules, modes, 60) == of_each
    shared = [CONTENDERS["sgd"], CONTENDERS["adam"]]  # adam shares the population of sgd
    assert cost_of_ranking(design, Budget(seconds=1), shared, schedules, {"sgd": MODE}, 60) == seconds_of_studies(
        MODE, design, 2
    )


def test_seconds_of_studies_by_hand() -> None:
    design = Design(8, 2, 3, 5, (InterimAnalysis(2, 0.05),), 4, 6, (InterimAnalysis(4, 0.05),), 10)
    single = ExecutionMode(1, 0.0, 1.0, "")
    whole = 2 * (8 + 6 + 5)  # 2 studies of 8 draws, 2 x 3 retrained and 5 judged
    assert seconds_of_studies(single, design, 1) == whole
    assert seconds_of_studies(single, design, 3) == 3 * whole
    stacked = ExecutionMode(16, 1.0, 0.0, "")
    assert seconds_of_studies(stacked, design, 1) == 1 + 1 + 1  # populations of 16: 16 draws, 12 retrained, 10 judged
    assert seconds_of_studies(stacked, replace(design, pruned=True), 1) == 2 + 1 + 1  # each study is a population
    refined = replace(design, refined=True)  # 4 draws, then proposals in 4 rounds of one
    assert seconds_of_studies(single, refined, 1) == pytest.approx(whole + 2 * 4 * budgets.PROPOSAL_S)


def test_a_long_time_ranks_and_a_short_one_does_not(workload: MeasuredTask) -> None:
    short, long = (plan_of(workload, ("sgd", "adam"), budget) for budget in ("20s", "600s"))
    assert (short.ranking, long.ranking in RANKED) == (None, True)
    assert isinstance(short.design, SettingDesign)
    assert isinstance(long.design, SettingDesign)
    assert plan_of(workload, ("sgd",), "600s").ranking is None
    assert isinstance(plan_of(workload, ("sgd", "adam"), "1000000steps").design, Design)
    assert plan_of(workload, ("sgd", "adam"), "16trials").design == SettingDesign.for_trainings(32, 2)
    assert plan_of(workload, ("sgd", "adam"), "600steps").design == SettingDesign.for_trainings(20, 2)  # 60 each
    assert plan_of(workload, ("sgd", "adam"), "600passes").design == SettingDesign.for_trainings(20, 2)


def test_what_comes_before_a_ranking_counts_for_its_part_of_a_time(
    workload: MeasuredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measurements and the check of ranges are no studies, yet a ranking after them must end in its time."""
    contenders = [CONTENDERS[name].keeping_the_optimum() for name in ("sgd", "adam")]
    studies_s = 2 * seconds_of_studies(MODE, RANKED[0], 1)  # they share no population
    monkeypatch.setattr(planners, "extend_lr_ranges", lambda *arguments, maximize: {})

    def ranks(budget_s: float, elapsed_s: float) -> bool:
        clock = Clock(budget_s, earlier_s=elapsed_s, read=lambda: 0.0)
        plan = make_plan(workload, contenders, Request(Budget(seconds=budget_s), num_workers=1), clock=clock)
        return plan.ranking is not None

    schedules = planners.schedules_of(workload, contenders, "linear", None)
    ranges_s = seconds_of_range_search(contenders, schedules, dict.fromkeys(schedules, MODE))
    assert ranges_s == 2 * 2 * MODE.seconds(16)  # twice, for two contenders
    budget_s = (studies_s + ranges_s) / RANKING_LIMIT * 1.01
    assert studies_s <= RANKING_SHARE * budget_s
    assert ranks(budget_s, 0.0)
    assert not ranks(budget_s, 0.02 * budget_s)
    assert not ranks(budget_s / 1.02, 0.0)
    monkeypatch.setattr(planners, "MIN_TRAININGS_FOR_RANGES", 10**9)
    assert ranks(budget_s, 0.02 * budget_s)


def plan_of(workload: MeasuredTask, names: tuple[str, ...], budget: str, **options: Any) -> ComparisonPlan:
    report = options.pop("report", lambda name: None)
    request = Request(parse(budget), **{"seed": 5, "num_workers": 1, **options})
    return make_plan(workload, [CONTENDERS[name].keeping_the_optimum() for name in names], request, report=report)


def test_ranges_are_checked_from_a_hundred_trainings_on(
    workload: MeasuredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def extend(*arguments: Any, maximize: bool) -> dict[str, tuple[Range, int]]:
        calls.append(arguments)
        return {"adam": (Range(1e-6, 1.0, "log"), 1)}

    monkeypatch.setattr(planners, "extend_lr_ranges", extend)
    reported: list[str] = []
    assert most_trainings("3x28trials") >= planners.MIN_TRAININGS_FOR_RANGES == 100
    plan = plan_of(workload, ("adam", "sgd"), "3x28trials", report=reported.append)
    assert len(calls) == 1
    assert reported == ["adam", "sgd", "ranges"]
    assert plan.ranges == {"adam": {"lr": Range(1e-6, 1.0, "log")}, "sgd": {}}
    assert plan.times_extended == {"adam": 1, "sgd": 0}
    assert plan.space_of(CONTENDERS["adam"])["lr"].low == 1e-6
    plan_of(workload, ("adam", "sgd"), "100trials")  # an adaptive search extends its ranges by itself
    assert len(calls) == 1
    small = most_trainings("2x4trials")
    for least, extended in ((small, 2), (small + 1, 2)):
        monkeypatch.setattr(planners, "MIN_TRAININGS_FOR_RANGES", least)
        plan_of(workload, ("adam", "sgd"), "2x4trials")
        assert len(calls) == extended


def most_trainings(text: str) -> int:
    design = ranked_design(parse(text), 2, predict=lambda design: 0.0)
    assert design is not None
    return design.most_trainings


def test_a_contender_with_nothing_to_search_draws_one_setting(workload: MeasuredTask) -> None:
    plan = plan_of(workload, ("sgd", "lbfgs"), "2x8trials")
    assert plan.draws == {"sgd": 8, "lbfgs": 1}
    pruned = plan_of(workload, ("sgd", "lbfgs"), "2x8trials", prune=True)
    assert pruned.draws["sgd"] > 16
    assert pruned.draws["lbfgs"] == 1
    assert isinstance(pruned.design, Design)
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
    plan = plan_of(workload, ("sgd", "momentum"), "2x8trials")
    sgd, momentum = CONTENDERS["sgd"], CONTENDERS["momentum"]
    assert plan.draw_settings(sgd, 0) == plan.draw_settings(sgd, 0)
    assert plan.draw_settings(sgd, 0) != plan.draw_settings(sgd, 1)
    assert plan.draw_settings(sgd, 0) != plan.draw_settings(momentum, 0)
    assert plan.draw_settings(sgd, 0)[0] != {"lr": 1e-3}
    assert len(plan.draw_settings(sgd, 0)) == 8
    assert isinstance(plan.design, Design)
    single = replace(plan, design=replace(plan.design, ranking=()))  # as in old stores
    assert single.draw_settings(sgd, 0)[0] == {"lr": 1e-3}  # a single study begins with the defaults


def test_a_plan_of_a_counted_budget_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine, idle and busy: the same populations, and the same number of workers."""
    contenders = [CONTENDERS[name] for name in ("sgd", "adam", "gd")]
    workload = as_workload(tasks.load("diabetes"))
    request = Request(Budget(trials=8))
    plans = []
    for seconds in (1e-7, 30.0):
        monkeypatch.setattr(timing, "seconds_of", lambda *_, seconds=seconds, **__: seconds)
        plans.append(make_plan(workload, contenders, request))
    idle, busy = plans
    assert [mode.members for mode in idle.execution_modes.values()] == [32, 32, 8]
    assert {name: mode.members for name, mode in idle.execution_modes.items()} == {
        name: mode.members for name, mode in busy.execution_modes.items()
    }
    assert (idle.num_workers, idle.design, idle.draws) == (busy.num_workers, busy.design, busy.draws)
