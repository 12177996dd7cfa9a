"""The learning rate range search: ranges grow where the best rate is at their end, and no further than allowed."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import thalweg
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.external import external_optimizer
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.lr_range_search import MAX_EXTENSIONS, NUM_RATES, extended_ranges
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.rules import Range
from thalweg.rules.core.hyper import Bound


def narrow(low: float, high: float) -> Contender:
    """An optimizer that declares such a range."""
    external = external_optimizer(torch.optim.SGD, "torch.optim:SGD")
    lr = replace(external.declared["lr"], search=Range(low, high, "log"))
    return Contender(f"sgd {low:g}-{high:g}", replace(external, declared={"lr": lr}))


def best_at(rate: float, num_trained: list[int]):
    """Trainings whose loss is least at a learning rate."""

    def train(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        num_trained.append(len(trials))
        losses = [abs(math.log(trial.settings["lr"] / rate)) for trial in trials]
        return [TrainingResult("ok" if loss < 20 else "diverged", loss, loss, loss) for loss in losses]

    return train


@pytest.mark.parametrize(
    ("rate", "low", "high", "times"),
    [(0.03, 1e-3, 1.0, 0), (2.0, 1e-3, 10.0, 1), (50.0, 1e-3, 100.0, 2), (1e6, 1e-3, 100.0, 2), (1e-5, 1e-5, 1.0, 2)],
)
def test_a_range_grows_towards_the_best(rate: float, low: float, high: float, times: int) -> None:
    contender, num_trained = narrow(1e-3, 1.0), []
    extended = extended_ranges([contender], "validation", 0, best_at(rate, num_trained))
    if not times:
        assert (extended, num_trained) == ({}, [16])
        return
    grew, number = extended[contender.name]
    assert (grew.low, grew.high, number) == (pytest.approx(low), pytest.approx(high), times)
    assert times <= MAX_EXTENSIONS


def test_a_maximized_value_moves_the_range_to_its_greatest() -> None:
    def train(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        values = [math.log(trial.settings["lr"]) for trial in trials]
        return [TrainingResult("ok", value, value, value) for value in values]

    contender = narrow(1e-3, 1.0)
    for maximize, ends in ((True, (1e-3, 100.0)), (False, (1e-5, 1.0))):
        extended = extended_ranges([contender], "validation", 0, train, maximize=maximize)
        bounds, times = extended[contender.name]
        assert (bounds.low, bounds.high, times) == (pytest.approx(ends[0]), pytest.approx(ends[1]), 2)


@pytest.mark.parametrize(("point", "low", "high"), [(0, 0.1, 1), (1, 0.1, 1), (2, 1, 1), (13, 1, 1), (14, 1, 10)])
def test_the_two_points_nearest_to_an_end_are_the_end(point: int, low: float, high: float) -> None:
    contender, num_trained = narrow(1e-3, 1.0), []
    lr = contender.space(1)["lr"].value_at(point / (NUM_RATES - 1))

    def train_once(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        middle = not num_trained  # in the second row the best lies in the middle
        return best_at(lr if middle else math.sqrt(trials[0].settings["lr"] * trials[-1].settings["lr"]), num_trained)(
            contenders, trials
        )

    extended = extended_ranges([contender], "validation", 0, train_once)
    if low == high == 1:
        assert extended == {}
    else:
        bounds, count = extended[contender.name]
        assert (bounds.low, bounds.high, count) == (pytest.approx(low * 1e-3), pytest.approx(high * 1.0), 1)


def test_the_split_that_selects_decides() -> None:
    def train(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        rates = [math.log(trial.settings["lr"]) for trial in trials]
        return [TrainingResult("ok", rate, (rate - math.log(0.03)) ** 2, -rate) for rate in rates]

    contender = narrow(1e-3, 1.0)
    assert extended_ranges([contender], "validation", 0, train) == {}
    assert extended_ranges([contender], "train", 0, train)[contender.name][0].low == pytest.approx(1e-5)
    assert extended_ranges([contender], "test", 0, train)[contender.name][0].high == pytest.approx(100.0)


def test_a_range_does_not_leave_the_bounds_of_its_setting() -> None:
    contender = narrow(1e-3, 1.0)
    lr = replace(contender.rule.hypers()["lr"], bound=Bound("[0, 5]"))
    bounded = replace(contender, rule=replace(contender.rule, declared={"lr": lr}))
    assert extended_ranges([bounded], "validation", 0, best_at(50.0, [])) == {}


def test_only_those_at_an_end_go_on() -> None:
    fine, short, pinned = narrow(1e-3, 1.0), narrow(1e-7, 1e-5), replace(CONTENDERS["adam"], pinned=frozenset({"lr"}))
    num_trained: list[int] = []
    extended = extended_ranges([fine, short, pinned], "validation", 0, best_at(0.03, num_trained))
    assert set(extended) == {short.name}
    assert num_trained == [32, 16]


def test_a_range_of_the_users_stays() -> None:
    num_trained: list[int] = []
    fixed = replace(CONTENDERS["sgd"], ranges={"lr": Range(1e-7, 1e-5, "log")})
    assert extended_ranges([fixed, narrow(1e-3, 1.0)], "validation", 0, best_at(0.03, num_trained)) == {}
    assert num_trained == [16]


def test_a_comparison_searches_the_range_that_grew() -> None:
    task = replace(thalweg.tasks.load("quadratic"), passes=60)
    comparison = thalweg.compare(task, [narrow(1e-6, 1e-4), "gd"], budget="6x8trials")
    assert comparison.plan.times_extended == {"sgd 1e-06-0.0001": 2, "gd": 0}
    assert comparison.plan.ranges["sgd 1e-06-0.0001"]["lr"].high == pytest.approx(1e-2)
    rates = [trial.settings["lr"] for trial in comparison.contenders[-1].trials["search"]]
    assert max(rates) > 1e-3


def test_contenders_train_in_one_population_as_each_by_itself() -> None:
    task, schedule = thalweg.tasks.load("quadratic"), TrainingSchedule(20, "linear", 2)
    contenders = [CONTENDERS[name] for name in ("sgd", "momentum", "momentum", "adam")]
    trials = [Trial({"lr": 0.01 * (k + 1)}, k) for k in range(4)]
    results = as_workload(task).train(contenders, trials, schedule)
    for contender, trial, result in zip(contenders, trials, results, strict=True):
        (single,) = as_workload(task).train(contender, [trial], schedule)
        assert result.train == pytest.approx(single.train, rel=1e-4)
