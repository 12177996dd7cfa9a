"""One training, from task to result: one by one, as a population, and by a function of the user's."""

import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from tests.comparison.training.small_task import SCHEDULE, TRIALS, loaders, small
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULT
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.trainer import follow, run_function
from thalweg.comparison.training.workload import as_workload
from thalweg.errors import TaskError
from thalweg.registry import WRAPPERS
from thalweg.tasks import Splits, TrainingFunction, load


@pytest.mark.parametrize("name", [*DEFAULT, "nesterov", "lion", "nadamw", "lamb", "dog", "cautious(clip(adamw))"])
def test_a_population_trains_as_one_by_one_does(name: str) -> None:
    task, contender = small(), parse(name)
    population = follow(PopulationRun(task, contender, TRIALS), SCHEDULE)
    singles = [follow(SingleRun(task, contender, trial), SCHEDULE)[0] for trial in TRIALS]
    for first, second in zip(population, singles, strict=True):
        assert first.status == second.status == "ok"
        # The same rule on the same batches; only the order of sums inside a matrix product may differ.
        assert (first.train, first.validation, first.test) == pytest.approx(
            (second.train, second.validation, second.test), rel=2e-4
        )
        assert (
            [evaluation.step for evaluation in first.evaluations]
            == [evaluation.step for evaluation in second.evaluations]
            == [0, 10, 20, 30]
        )


@pytest.mark.parametrize("name", [*CONTENDERS, *(f"{wrapper}(adam)" for wrapper in WRAPPERS)])
def test_every_contender_trains_or_says_why_not(name: str) -> None:
    (result,) = as_workload(small()).train(parse(name), TRIALS[:1], TrainingSchedule(3, "linear"))
    if parse(name).rule.traits.min_dims:
        assert result.message.startswith("ParameterError")
        assert "must have 2 dimensions or more, got one of shape (8,)" in result.message
    else:
        assert result.status == "ok", result.message


def test_the_same_trial_gives_the_same_result_to_the_bit() -> None:
    def results() -> list[TrainingResult]:
        return as_workload(small()).train(CONTENDERS["adam"], TRIALS, SCHEDULE)

    for first, second in zip(results(), results(), strict=True):
        assert (first.train, first.validation, first.test, first.evaluations) == (
            second.train,
            second.validation,
            second.test,
            second.evaluations,
        )


def test_training_is_paired_across_contenders_by_its_seed() -> None:
    firsts = [
        as_workload(small()).train(CONTENDERS[name], TRIALS[:1], SCHEDULE)[0].evaluations[0] for name in ("sgd", "adam")
    ]
    assert firsts[0] == firsts[1]
    batches = [SingleRun(small(), CONTENDERS[name], TRIALS[0]).batches for name in ("sgd", "adam")]
    for _ in range(10):
        (first,), (second,) = (next(batch) for batch in batches)
        assert torch.equal(first[0], second[0])


def test_gradient_descent_sees_the_full_batch_and_stops_after_as_many_passes() -> None:
    task = small()
    run = SingleRun(task, CONTENDERS["gd"], TRIALS[0])
    assert len(next(run.batches)[0][0]) == 60
    assert task.batches_per_pass(full_batch=True) == 1
    assert task.batches_per_pass() == 4  # 16, 16, 16 and 12 examples


def test_the_learning_rate_follows_the_schedule() -> None:
    run = SingleRun(small(), CONTENDERS["sgd"], Trial({"lr": 0.5}, 0))
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda *_: rates.append(run.optimizer.param_groups[0]["lr"]))
    follow(run, TrainingSchedule(steps=4, schedule="linear", num_evaluations=1))
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_divergence_is_a_result() -> None:
    for trials in ([Trial({"lr": 1e6}, 0)], [Trial({"lr": 1e6}, 0), Trial({"lr": 0.01}, 0)]):
        results = as_workload(load("quadratic")).train(CONTENDERS["gd"], trials, SCHEDULE)
        assert results[0].status == "diverged"
        assert [result.status for result in results[1:]] == ["ok"] * (len(trials) - 1)


def test_growing_tenfold_is_divergence_too() -> None:
    (result,) = as_workload(load("quadratic")).train(
        CONTENDERS["gd"], [Trial({"lr": 4.0}, 0)], TrainingSchedule(6, "constant", 2)
    )
    assert math.isfinite(result.train)
    assert result.train > 10 * result.evaluations[0].train
    assert result.status == "diverged"


class Capricious(nn.Module):
    """Raises when its weight gets large."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(self.weight.detach()) > 5:
            raise ValueError("too large for me")
        return -self.weight * x


def test_a_training_that_raises_is_a_result_and_spares_the_others() -> None:
    x = torch.ones(20, 1)
    task = small(model=Capricious, loss=lambda model, batch: model(batch[0]).mean(), data=(x,), batch_size=4)
    trials = [Trial({"lr": 100.0}, 0), Trial({"lr": 1e-3}, 0)]
    results = as_workload(task).train(CONTENDERS["sgd"], trials, SCHEDULE)
    assert [result.status for result in results] == ["failed", "ok"]
    assert re.fullmatch(rf"ValueError: too large for me \(at {re.escape(__file__)}:\d+\)", results[0].message)


def test_the_shuffling_of_a_loader_follows_from_the_seed() -> None:
    task = small(data=loaders)
    first, second, third = (
        as_workload(task).train(CONTENDERS["sgd"], [Trial({"lr": 0.05}, seed)], SCHEDULE)[0] for seed in (1, 1, 2)
    )
    assert first.evaluations == second.evaluations
    assert first.evaluations != third.evaluations


def test_a_loader_with_a_generator_of_its_own_is_paired_too() -> None:
    generator = torch.Generator()
    x = torch.randn(50, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    loader = DataLoader(data, batch_size=10, shuffle=True, generator=generator)
    task = small(data=Splits(loader, loader, loader))
    first, second = (
        as_workload(task).train(CONTENDERS["sgd"], [Trial({"lr": 0.05}, 3)], SCHEDULE)[0] for _ in range(2)
    )
    assert first.evaluations == second.evaluations


@pytest.mark.parametrize("form", ["tensor", "list", "dict"])
def test_batches_of_a_loader_may_have_any_common_form(form: str) -> None:
    x = torch.randn(20, 3)
    rows = {"tensor": list(x), "list": [[row, row.sum()] for row in x], "dict": [{"x": row} for row in x]}[form]
    sizes: list[int] = []

    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        inputs = batch["x"] if form == "dict" else batch[0]
        sizes.append(len(inputs))
        return model(inputs).square().mean()

    loader = DataLoader(rows, batch_size=8)
    task = small(data=Splits(loader, loader, loader), loss=loss)
    comparison = thalweg.compare(task, ["sgd"], budget="1trial")
    assert set(sizes) == {8, 4}
    assert comparison.verdict.tied == ["sgd"]


def test_dropout_is_off_where_losses_are_measured() -> None:
    task = small(model=lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.9), nn.Linear(8, 1)))
    run = SingleRun(task, CONTENDERS["sgd"], TRIALS[0])
    run.step(1.0)
    assert run.evaluate("train") == run.evaluate("train")


def test_losses_over_a_split_count_every_example_once() -> None:
    x = torch.arange(5000.0).unsqueeze(1)
    task = small(data=Splits((x,), (x,), (x,)), loss=lambda model, batch: batch[0].mean())
    assert SingleRun(task, CONTENDERS["sgd"], TRIALS[0]).evaluate("train")[0] == pytest.approx(2499.5)


def test_a_training_function_reports_its_result() -> None:
    seen: list[torch.optim.Optimizer] = []

    def train(make_optimizer, report):
        weight = nn.Parameter(torch.rand(()))
        optimizer = make_optimizer([weight])
        seen.append(optimizer)
        for _ in range(3):
            weight.grad = weight.detach().clone()
            optimizer.step()
            report(weight.detach().abs(), train=0.5, test=weight.detach() + 1)

    task = TrainingFunction(train=train)
    result = run_function(task, CONTENDERS["sgd"], Trial({"lr": 0.1}, 0))
    assert isinstance(seen[0], thalweg.optim.SGD)
    assert seen[0].param_groups[0]["lr"] == 0.1
    assert [evaluation.validation for evaluation in result.evaluations] == sorted(
        (evaluation.validation for evaluation in result.evaluations), reverse=True
    )
    assert all(
        b == pytest.approx(0.9 * a) for a, b in pairwise(evaluation.validation for evaluation in result.evaluations)
    )
    assert (result.train, result.test) == (0.5, pytest.approx(result.validation + 1))
    again = as_workload(task).train(CONTENDERS["sgd"], [Trial({"lr": 0.1}, 7)], SCHEDULE)
    assert (
        again[0].evaluations
        == as_workload(task).train(CONTENDERS["sgd"], [Trial({"lr": 0.1}, 7)], SCHEDULE)[0].evaluations
    )


def test_a_function_that_reports_nothing_failed() -> None:
    task = TrainingFunction(train=lambda make_optimizer, report: None, name="mute")
    (result,) = as_workload(task).train(CONTENDERS["sgd"], [Trial({}, 0)], SCHEDULE)
    assert result.status == "failed"
    assert "mute: the function must call report(value) at least once" in result.message


def test_a_function_that_makes_no_optimizer_is_refused() -> None:
    def train(make_optimizer, report):
        report(0.5)

    with pytest.raises(TaskError, match=r"train: the function must call make_optimizer\(model\), and did not"):
        thalweg.compare(train, ["sgd"], budget="2trials")


def test_a_contender_pinned_everywhere_still_trains() -> None:
    fixed = Contender("fixed", CONTENDERS["adam"].rule, pinned=frozenset(CONTENDERS["adam"].rule.hypers()))
    comparison = thalweg.compare(small(), [fixed], budget="2trials")
    assert comparison.contenders[0].searched == []
    assert comparison.contenders[0].settings == CONTENDERS["adam"].rule.settings()
