"""Boundaries of planning: the design of a budget, the gain of workers, and the range of proposals."""

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.planning import num_workers
from thalweg.comparison.planning.budget import RANKED, Budget, ranked_design
from thalweg.comparison.planning.num_workers import FORK_S, START_S, check_num_workers, choose_num_workers
from thalweg.comparison.planning.proposals import propose
from thalweg.comparison.training import timing
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import threads
from thalweg.errors import SettingError
from thalweg.rules import Range


@pytest.mark.parametrize(("seconds", "rung"), [(100.0, 1), (99.9, 0)])
def test_a_ranking_takes_its_share_of_a_time(seconds: float, rung: int) -> None:
    costs = {RANKED[0]: 10.0, RANKED[1]: 60.0}
    design = ranked_design(Budget(seconds=seconds), 2, predict=lambda design: costs.get(design, 1e9))
    assert design == RANKED[rung]


@pytest.mark.parametrize(("before", "rung"), [(10.0, 1), (10.1, 0), (60.0, 0), (60.1, None)])
def test_studies_that_would_not_end_in_their_part_of_a_time_are_not_begun(before: float, rung: int | None) -> None:
    costs = {RANKED[0]: 10.0, RANKED[1]: 60.0}
    design = ranked_design(
        Budget(seconds=100.0), 2, predict=lambda design: costs.get(design, 1e9), before=lambda design: before
    )
    assert design == (None if rung is None else RANKED[rung])
    of_steps = ranked_design(Budget(steps=10), 2, predict=lambda design: costs.get(design, 1e9), before=lambda _: 1e9)
    assert of_steps == RANKED[0]  # whose budget is no time


def test_steps_are_planned_to_the_last() -> None:
    for allowed, design in ((9, None), (10, RANKED[0]), (11, RANKED[0])):
        predicted = ranked_design(Budget(steps=allowed), 2, predict=lambda rung: 10 if rung == RANKED[0] else 1e9)
        assert predicted == design


@pytest.mark.parametrize(
    ("planned_s", "no_fork", "single_thread_s", "chosen"),
    [
        (4 * FORK_S, "", 1.0, 2),  # twice as fast
        (4 * FORK_S - 0.1, "", 1.0, 1),  # too short to start workers for
        (4 * START_S, "threads", 1.0, 2),
        (4 * START_S - 0.1, "threads", 1.0, 1),
        (1000.0, "", 1.59, 2),  # 2 / 1.59 = 1.26 times as fast
        (1000.0, "", 1.61, 1),  # 1.24 times
    ],
)
def test_workers_are_started_where_they_pay(
    monkeypatch: pytest.MonkeyPatch, planned_s: float, no_fork: str, single_thread_s: float, chosen: int
) -> None:
    monkeypatch.setattr(num_workers, "why_no_fork", lambda: no_fork)
    measured = iter([1.0, single_thread_s])
    monkeypatch.setattr(timing, "seconds_of", lambda action, **_: next(measured))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    modes = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    task = thalweg.Task(
        model=lambda: nn.Linear(3, 1),
        loss=thalweg.supervised(nn.functional.mse_loss),
        data=(torch.ones(40, 3), torch.ones(40, 1)),
        passes=1,
    )
    count, _ = choose_num_workers(as_workload(task), [CONTENDERS["sgd"]], modes, planned_s, 0, requested=None)
    assert count == chosen
    # The clock does not decide if the budget is counted, but the number of trainings that are planned does.
    measured = iter([1.0, single_thread_s])
    counted, _ = choose_num_workers(
        as_workload(task), [CONTENDERS["sgd"]], modes, planned_s, 0, requested=None, by_clock=False
    )
    assert counted == (2 if planned_s == 1000.0 else chosen)
    without_time = choose_num_workers(
        as_workload(task), [CONTENDERS["sgd"]], modes, planned_s, 0, requested=None, time_left=lambda: 0.0
    )
    assert without_time == (1, modes)  # nothing is measured


@pytest.mark.parametrize("requested", [0, -1, True, 2.5, 100_000])
def test_a_number_of_workers_that_no_machine_has_is_refused(requested: object) -> None:
    with pytest.raises(SettingError, match="workers must be"):
        check_num_workers(requested)  # type: ignore[arg-type]
    for fine in (None, 1, 64):
        check_num_workers(fine)


def test_proposals_near_an_end_stay_in_the_range() -> None:
    space = {"lr": Range(1e-4, 10.0, "log"), "momentum": Range(0.0, 0.9, "linear")}
    for best in ({"lr": 10.0, "momentum": 0.9}, {"lr": 1e-4, "momentum": 0.0}):
        tried = [(best, 0.0), ({"lr": 0.1, "momentum": 0.5}, 1.0)]
        for settings in propose(space, tried, 8, seed=1, number=0):
            assert all(space[name].low <= value <= space[name].high for name, value in settings.items())


def test_a_cliff_does_not_hide_the_valley() -> None:
    """Scores beyond the median count as the median: proposals are the same however high the cliff is."""
    space = {"lr": Range(1e-4, 10.0, "log")}
    rates = [space["lr"].value_at((k + 0.5) / 8) for k in range(8)]
    valley = [3.0, 2.0, 1.0, 0.5, 1.0, 4.0, 5.0, 6.0]
    cliff = [*valley[:5], 40.0, 500.0, 6000.0]
    proposals = [
        propose(space, [({"lr": rate}, score) for rate, score in zip(rates, scores, strict=True)], 4, seed=3, number=0)
        for scores in (valley, cliff)
    ]
    assert proposals[0] == proposals[1]
