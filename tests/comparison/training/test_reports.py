"""Reports of a training function: the one that counts, what it says of its value, and contradictions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases.comparison_records import PLAN, WORKLOAD
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.functions.reports import check_direction
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import run_function
from thalweg.comparison.training.workload import as_workload
from thalweg.errors import TaskError
from thalweg.tasks import Splits, Task, TrainingFunction, supervised
from thalweg.tasks.user_code import describe_with_line

Report = Callable[..., None]


def result_of(reports: Callable[[Report], None], **options: Any) -> TrainingResult:
    """Train a function that makes these reports."""

    def train(make_optimizer: Any, report: Report) -> None:
        make_optimizer([nn.Parameter(torch.ones(1))])
        reports(report)

    return run_function(TrainingFunction(train=train, **options), parse("sgd"), Trial({}, 0))


def rises_and_falls(report: Report) -> None:
    """Validation and test disagree on which report is best."""
    report(0.5, test=0.1, loss=3.0)
    report(0.9, test=0.2, loss=2.0)
    report(0.7, test=0.8, loss=1.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.7, 0.8, 1.0)),
        ({"result": "last", "maximize": True}, (0.7, 0.8, 1.0)),
        ({"result": "best", "maximize": True}, (0.9, 0.2, 2.0)),
        ({"result": "best"}, (0.5, 0.1, 3.0)),
    ],
)
def test_the_report_that_counts_gives_all_numbers(options: dict[str, Any], expected: tuple[float, ...]) -> None:
    result = result_of(rises_and_falls, **options)
    assert (result.validation, result.test, result.metrics["loss"]) == expected
    assert [evaluation.validation for evaluation in result.evaluations] == [0.5, 0.9, 0.7]


def test_what_a_report_says_counts_for_the_whole_training() -> None:
    def reports(report: Report) -> None:
        report(0.5)
        report(0.9, maximize=True, metric_name="accuracy")
        report(0.7)

    result = result_of(reports, result="best")
    assert (result.validation, result.maximize, result.metric_name) == (0.9, True, "accuracy")
    assert __file__ in result.stated_at
    assert result_of(lambda report: report(0.5)).maximize is None


@pytest.mark.parametrize(
    ("options", "first", "second", "message"),
    [
        ({}, {"maximize": True}, {"maximize": False}, "maximize must be the same in all reports of a comparison"),
        ({"maximize": False}, {}, {"maximize": True}, "got True after False"),
        ({}, {"metric_name": "F1"}, {"metric_name": "AUC"}, "got 'AUC' after 'F1'"),
        ({"metric_name": "F1"}, {}, {"metric_name": "AUC"}, "got 'AUC' after 'F1'"),
        ({}, {}, {"maximize": 1}, "maximize must be True or False, got 1"),
        ({}, {}, {"metric_name": 3}, "metric_name must be a text, got 3"),
    ],
)
def test_reports_that_contradict_are_refused_with_the_line(
    options: dict[str, Any], first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    def reports(report: Report) -> None:
        report(0.5, **first)
        report(0.5, **second)

    with pytest.raises(TaskError) as caught:
        result_of(reports, **options)
    assert message in str(caught.value)
    assert f"(at {__file__}:{reports.__code__.co_firstlineno + 2})" in str(caught.value)


def test_a_boolean_of_numpy_is_a_direction_and_zero_has_no_sign() -> None:
    result = result_of(lambda report: report(-0.0, maximize=np.bool_(True)))
    assert result.maximize is True
    assert math.copysign(1.0, result.validation) == 1.0


@pytest.mark.parametrize("keywords", [{"loss": 1.0}, {}])
def test_a_report_without_a_value_is_told_how_to_report(keywords: dict[str, float]) -> None:
    with pytest.raises(TypeError) as caught:
        result_of(lambda report: report(**keywords))
    text = describe_with_line(caught.value)
    assert text.startswith("TypeError: report() missing 1 required positional argument: 'value' (at ")
    assert "Write report(value, train=..., test=..., f1=...), with one value and further numbers by name" in text


def test_trainings_that_contradict_are_refused_with_the_line() -> None:
    said = result_of(lambda report: report(0.5, maximize=False))
    check_direction(said, maximize=False)
    check_direction(result_of(lambda report: report(0.5)), maximize=True)
    with pytest.raises(TaskError, match=r"mine: maximize must be the same .* got False after True \(at .*reports\.py"):
        check_direction(said, maximize=True, who="mine")


def test_values_that_are_not_finite_on_the_way_are_no_result() -> None:
    def reports(report: Report) -> None:
        for value in (math.inf, 0.4, math.nan, 0.6, math.nan):
            report(value)

    assert result_of(reports).status == "diverged"
    best = result_of(reports, result="best")
    assert (best.status, best.validation, best.counted) == ("ok", 0.4, -4)
    assert result_of(reports, result="best", maximize=True).validation == 0.6
    assert result_of(lambda report: report(-math.inf), maximize=True, result="best").status == "diverged"


def test_a_test_value_may_wait_for_the_last_report_only_if_that_counts() -> None:
    def reports(report: Report) -> None:
        report(0.4, test=math.nan)
        report(0.6, test=0.5)

    assert result_of(reports).test == 0.5
    assert result_of(reports, result="best", maximize=True).test == 0.5
    with pytest.raises(TaskError, match=r"needs a test value with the best report, got none with report 1 of 2\."):
        result_of(reports, result="best")

    def without(report: Report) -> None:
        report(0.4)
        report(0.6, test=0.5)

    with pytest.raises(TaskError, match="got none with report 1 of 2"):
        result_of(without, result="best")


@pytest.mark.parametrize("keyword", ["value", "train", "test", "accuracy"])
def test_a_value_that_is_no_number_names_the_line(keyword: str) -> None:
    def reports(report: Report) -> None:
        values: dict[str, Any] = {"value": 0.5} | {keyword: "0.93"}
        report(values.pop("value"), **values)

    what = "the value" if keyword == "value" else keyword
    line = reports.__code__.co_firstlineno + 2
    with pytest.raises(TaskError, match=rf"report: {what} must be a single number, got '0.93' \(at .*:{line}\)"):
        result_of(reports)


def test_a_maximized_value_is_pruned_from_below() -> None:
    rungs = Rungs("validation", {1: [0.5, 0.7, 0.9]}, maximize=True)
    assert rungs.survivors(1, [0.95]) == [0]
    assert rungs.survivors(1, [0.6]) == []
    assert Rungs("validation", {1: [0.5, 0.7, 0.9]}).survivors(1, [0.6]) == [0]


def test_metrics_and_what_was_said_are_stored() -> None:
    def reports(report: Report) -> None:
        report(0.9, test=0.5, maximize=True, metric_name="accuracy", loss=math.nan, steps=3)
        report(0.7, test=0.6)

    results = [
        result_of(reports, result="best", maximize=True),
        result_of(reports),
        result_of(lambda report: report(0.3)),
        result_of(lambda report: report(0.3, recall=0.8)),
    ]
    store = Store(None)
    record = store.create("key", workload=WORKLOAD, contenders=[], plan=PLAN, environment={})
    trials = [TrialRecord("a", "race", 0, k, 0, {}, result) for k, result in enumerate(results)]
    store.add(record.id, trials)
    stored = [trial.result for trial in store.trials(record.id)]
    for before, after in zip(results, stored, strict=True):
        assert (after.counted, after.maximize, after.metric_name) == (
            before.counted,
            before.maximize,
            before.metric_name,
        )
        assert (after.status, after.validation, after.test) == (before.status, before.validation, before.test)
        assert after.metrics.keys() == before.metrics.keys()
    assert stored[0].metrics["steps"] == 3.0
    assert stored[3].metrics == {"recall": 0.8}
    assert math.isnan(stored[0].metrics["loss"])
    assert [evaluation.test for evaluation in stored[1].evaluations][1] == 0.6


def zero_model() -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def weight(model: nn.Module, batch: Any) -> torch.Tensor:
    return next(model.parameters()).mean()


def closeness(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    return -(model(inputs) - targets).square().mean()


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("metric", [None, closeness])
def test_a_task_counts_its_last_or_its_best_validation(members: int, metric: Any) -> None:
    """The weight grows towards 4. The validation is best at 2, on the way, and the test at 5, later."""
    inputs = torch.ones(8, 1)
    weights = [0.0]
    for _ in range(8):
        weights.append(weights[-1] + 0.2 * (4 - weights[-1]))
    sign = 1 if metric is None else -1
    best = min(range(9), key=lambda k: (weights[k] - 2) ** 2)
    assert 0 < best < 8
    for result, index in (("last", 8), ("best", best)):
        task = Task(
            model=zero_model,
            loss=supervised(nn.functional.mse_loss),
            metric=metric,
            maximize=metric is not None,
            metrics={"weight": weight},
            data=Splits((inputs, 4 * inputs), (inputs, 2 * inputs), (inputs, 5 * inputs)),
            batch_size=8,
            passes=8,
            result=result,  # type: ignore[arg-type]
        )
        workload, contender = as_workload(task), parse("sgd")
        schedule = workload.training_schedule(contender, "constant")
        assert list(schedule.evaluation_steps()) == list(range(9))
        for trained in workload.train(contender, [Trial({"lr": 0.1}, k) for k in range(members)], schedule):
            assert trained.status == "ok"
            assert trained.validation == pytest.approx(sign * (weights[index] - 2) ** 2, rel=1e-5)
            assert trained.test == pytest.approx(sign * (weights[index] - 5) ** 2, rel=1e-5)
            assert trained.train == pytest.approx((weights[index] - 4) ** 2, rel=1e-5)
            assert trained.metrics["weight"] == pytest.approx(weights[index], rel=1e-5)
            assert trained.counted == index - 9


def test_a_training_that_diverged_after_its_best_still_has_its_best() -> None:
    inputs = torch.ones(8, 1)
    options: dict[str, Any] = {
        "model": zero_model,
        "loss": supervised(nn.functional.mse_loss),
        "data": Splits((inputs, 4 * inputs), (inputs, 4 * inputs), (inputs, 4 * inputs)),
        "batch_size": 8,
        "passes": 8,
    }
    statuses = {}
    for result in ("last", "best"):
        workload = as_workload(Task(result=result, **options))
        schedule = workload.training_schedule(parse("sgd"), "constant")
        (trained,) = workload.train(parse("sgd"), [Trial({"lr": 1.5}, 0)], schedule)  # twice too long: it oscillates
        statuses[result] = trained.status, trained.validation
    assert statuses["last"][0] == "diverged"
    assert statuses["best"] == ("ok", pytest.approx(16.0))  # the first evaluation
