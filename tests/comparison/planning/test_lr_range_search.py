"""The frontier: ranges grow where the best learning rate is at their end, and no further than allowed."""

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
from thalweg.comparison.planning.lr_range_search import MAX_EXTENSIONS, extended_ranges
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.rules import Range


def narrow(low: float, high: float) -> Contender:
    """An optimizer that declares such a range."""
    found = external_optimizer(torch.optim.SGD, "torch.optim:SGD")
    lr = replace(found.declared["lr"], search=Range(low, high, "log"))
    return Contender(f"sgd {low:g}-{high:g}", replace(found, declared={"lr": lr}))


def best_at(rate: float, asked: list[int]):
    """Trainings whose loss is least at a learning rate."""

    def train(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        asked.append(len(trials))
        losses = [abs(math.log(trial.settings["lr"] / rate)) for trial in trials]
        return [TrainingResult("ok" if loss < 20 else "diverged", loss, loss, loss) for loss in losses]

    return train


@pytest.mark.parametrize(
    ("rate", "low", "high", "times"),
    [(0.03, 1e-3, 1.0, 0), (2.0, 1e-3, 10.0, 1), (50.0, 1e-3, 100.0, 2), (1e6, 1e-3, 100.0, 2), (1e-5, 1e-5, 1.0, 2)],
)
def test_a_range_grows_towards_the_best(rate: float, low: float, high: float, times: int) -> None:
    contender, asked = narrow(1e-3, 1.0), []
    found = extended_ranges([contender], "validation", 0, best_at(rate, asked))
    if not times:
        assert (found, asked) == ({}, [16])
        return
    grew, number = found[contender.name]
    assert (grew.low, grew.high, number) == (pytest.approx(low), pytest.approx(high), times)
    assert times <= MAX_EXTENSIONS


def test_only_those_at_an_end_go_on() -> None:
    fine, short, pinned = narrow(1e-3, 1.0), narrow(1e-7, 1e-5), replace(CONTENDERS["adam"], pinned=frozenset({"lr"}))
    asked: list[int] = []
    found = extended_ranges([fine, short, pinned], "validation", 0, best_at(0.03, asked))
    assert set(found) == {short.name}
    assert asked == [32, 16]


def test_a_range_of_the_users_stays() -> None:
    asked: list[int] = []
    fixed = replace(CONTENDERS["sgd"], ranges={"lr": Range(1e-7, 1e-5, "log")})
    assert extended_ranges([fixed, narrow(1e-3, 1.0)], "validation", 0, best_at(0.03, asked)) == {}
    assert asked == [16]


def test_a_comparison_searches_the_range_that_grew() -> None:
    task = replace(thalweg.tasks.load("quadratic"), passes=60)
    found = thalweg.compare(task, [narrow(1e-6, 1e-4), "gd"], budget="6x8trials")
    assert found.plan.times_extended == {"sgd 1e-06-0.0001": 2, "gd": 0}
    assert found.plan.ranges["sgd 1e-06-0.0001"]["lr"].high == pytest.approx(1e-2)
    rates = [entry.settings["lr"] for entry in found.contenders[-1].trials["search"]]
    assert max(rates) > 1e-3


def test_contenders_train_in_one_population_as_each_by_itself() -> None:
    task, horizon = thalweg.tasks.load("quadratic"), TrainingSchedule(20, "linear", 2)
    contenders = [CONTENDERS[name] for name in ("sgd", "momentum", "momentum", "adam")]
    trials = [Trial({"lr": 0.01 * (k + 1)}, k) for k in range(4)]
    together = as_workload(task).train(contenders, trials, horizon)
    for one, trial, result in zip(contenders, trials, together, strict=True):
        (alone,) = as_workload(task).train(one, [trial], horizon)
        assert result.train == pytest.approx(alone.train, rel=1e-4)
