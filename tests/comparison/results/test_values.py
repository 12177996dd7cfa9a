"""Whole comparisons of values as people have them: maximized, negative, zero, bounded, unknown, several at once."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.cli.commands.compare import print_comparison
from thalweg.comparison.results.scoring import plan_covering
from thalweg.errors import SettingError, TaskError
from thalweg.tasks import Splits, Task, TrainingFunction

CONTENDERS = ["sgd:weight_decay=0,lr=1e-3..1", "rmsprop:weight_decay=0,alpha=0.9,eps=1e-8,momentum=0,lr=1e-2..10"]


def distance(make_optimizer: Any) -> float:
    """Return how far the learning rate of a trial is from the best one, in decades, with a little noise by the seed."""
    optimizer = make_optimizer([nn.Parameter(torch.ones(1))])
    best = 0.1 if isinstance(optimizer, thalweg.optim.SGD) else 2.0
    return abs(math.log10(optimizer.param_groups[0]["lr"] / best)) + 0.002 * float(torch.rand(()))


def function_of(value: Callable[[float], float], **options: Any) -> TrainingFunction:
    """Return a training function that reports a value of its distance, and another one for the test."""

    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        report(value(far + 1.0), test=value(far + 1.0))
        report(value(far), test=value(far))

    return TrainingFunction(train=train, name=options.pop("name", "values"), **options)


def compare(task: Any, **options: Any) -> thalweg.Comparison:
    values: dict[str, Any] = {"budget": "12trials", "workers": 1}
    return thalweg.compare(task, CONTENDERS, **values | options)


def mirrored(comparison: thalweg.Comparison) -> dict[str, Any]:
    """Return what must be the same if all values change their sign and their direction."""
    return {
        summary.name: (
            summary.settings,
            pytest.approx(-summary.value.mean),
            pytest.approx(-summary.value.high),
            pytest.approx(-summary.value.low),
            pytest.approx(summary.worse_by),
            summary.worse_by_text,
        )
        for summary in comparison.contenders
    }


def test_a_maximized_value_is_the_mirror_of_a_minimized_one() -> None:
    least = compare(function_of(lambda far: far - 0.5, scale="linear"))
    most = compare(function_of(lambda far: 0.5 - far, scale="linear", maximize=True))
    expected = mirrored(least)
    for summary in most.contenders:
        settings, mean, low, high, worse_by, text = expected[summary.name]
        assert summary.settings == settings
        assert (summary.value.mean, summary.value.low, summary.value.high) == (mean, low, high)
        assert (summary.worse_by, summary.worse_by_text) == (worse_by, text)
    assert [summary.name for summary in most.contenders] == [summary.name for summary in least.contenders]
    assert most.verdict.recommended == least.verdict.recommended is not None
    assert most.verdict.settled == least.verdict.settled
    chosen = next(summary for summary in most.contenders if summary.name == most.verdict.recommended)
    best = max(trial.result.validation for trial in chosen.trials["search"] if trial.result.status == "ok")
    assert chosen.value.mean == pytest.approx(best, abs=0.02)


def test_an_accuracy_is_named_and_compared_by_its_differences() -> None:
    comparison = compare(
        function_of(lambda far: 0.95 / (1 + far / 4), maximize=True, metric_name="accuracy", name="classifier")
    )
    scale = comparison.plan.scale
    assert (comparison.metric, scale.kind, scale.domain, scale.maximize) == ("accuracy", "linear", "rate", True)
    assert "reaches an accuracy of 0.9" in comparison.verdict.text
    told = json.dumps(comparison.to_json())
    assert "reported value" not in told
    assert comparison.to_json()["maximize"] is True
    assert comparison.to_json()["margin"] == "0.003"
    for summary in comparison.contenders:
        assert 0.0 <= summary.value.low <= summary.value.mean <= summary.value.high <= 1.0
        assert summary.worse_by_text == f"{summary.worse_by:z.3g}"
    worst = max(trial.result.validation for summary in comparison.contenders for trial in summary.trials["search"])
    assert comparison.contenders[0].value.mean == pytest.approx(worst, abs=0.01)


def test_the_reports_themselves_may_say_what_they_are() -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        report(2.0 - distance(make_optimizer), maximize=True, metric_name="score")

    comparison = compare(train)
    assert comparison.plan.scale.maximize
    assert comparison.metric == "score"
    assert all(
        summary.value.mean > 1.9 for summary in comparison.contenders if summary.name == comparison.verdict.recommended
    )
    assert any("chose the settings and evaluates them" in caution for caution in comparison.cautions)


def test_trainings_of_the_other_direction_are_refused_with_the_line() -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        report(2.0 - far, maximize=far < 0.6)

    line = train.__code__.co_firstlineno + 2
    with pytest.raises(TaskError, match=rf"maximize must be the same in all reports .* \(at {__file__}:{line}\)"):
        compare(train)


def test_values_that_turn_negative_are_compared_by_differences_and_a_replay_agrees(tmp_path: Path) -> None:
    """The first values are positive, so the comparison begins with logarithms."""
    store = tmp_path / "store.sqlite"
    function = function_of(lambda far: far - 0.2)
    live = compare(function, store=store)
    stored = live.store.find()
    assert stored is not None
    assert (stored.plan.scale.kind, live.plan.scale.kind, live.plan.scale.domain) == ("log", "linear", "real")
    assert live.contenders[0].value.mean < 0
    assert "e-12" not in json.dumps(live.to_json()["verdict"])
    assert any("has no logarithm" in caution for caution in live.cautions)
    replayed = thalweg.Comparison(thalweg.comparison.Store(store, write=False), stored)
    assert replayed.to_json() == live.to_json()
    assert compare(function, store=store).to_json() == live.to_json()
    # In whatever order the trainings are read.
    trials = live.store.trials(live.record.id)
    assert plan_covering(stored.plan, reversed(trials)) == plan_covering(stored.plan, trials) == live.plan


def test_the_same_task_on_a_linear_scale_from_the_beginning_changes_nothing_later() -> None:
    comparison = compare(function_of(lambda far: far + 0.5), scale="linear")
    assert comparison.plan.scale.kind == "linear"
    assert not any("has no logarithm" in caution for caution in comparison.cautions)
    ratios = compare(function_of(lambda far: far + 0.5))
    assert ratios.plan.scale.kind == "log"
    with pytest.raises(SettingError, match="needs values above 0, got -"):
        compare(function_of(lambda far: far - 9.0), scale="log")


def test_a_loss_of_exactly_zero_is_a_value_like_any_other() -> None:
    comparison = compare(function_of(lambda far: max(0.0, far - 0.3)))
    first = comparison.contenders[0]
    assert first.value.mean == 0.0
    assert comparison.plan.scale.kind == "linear"
    assert comparison.verdict.recommended is not None
    assert "reaches a reported value of 0 " in comparison.verdict.text
    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))


def test_values_that_are_all_zero_end_without_an_error() -> None:
    for maximize in (False, True):
        comparison = compare(function_of(lambda far: 0.0, maximize=maximize), budget="6trials")
        assert comparison.contenders[0].value.mean == 0.0
        assert json.dumps(comparison.to_json(), allow_nan=False)


def test_values_that_are_not_finite_sometimes_are_lost_runs() -> None:
    def value(far: float) -> float:
        return math.nan if far > 1.0 else -math.inf if far > 0.8 else 1.0 - far

    comparison = compare(function_of(value, maximize=True))
    trials = [trial for summary in comparison.contenders for trial in summary.trials["search"]]
    assert {trial.result.status for trial in trials} == {"ok", "diverged"}
    assert comparison.contenders[0].value.mean > 0.8
    assert json.dumps(comparison.to_json(), allow_nan=False)


def test_validation_chooses_and_test_evaluates_a_maximized_value() -> None:
    """The better the validation, the worse the test."""

    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        report(1 - far, test=far)

    function = TrainingFunction(train=train, maximize=True)
    (summary,) = thalweg.compare(function, CONTENDERS[:1], budget="20trials", workers=1).contenders
    ended = [trial.result for trial in summary.trials["search"] if trial.result.status == "ok"]
    assert summary.value.mean < 0.1 < max(result.test for result in ended)


def test_the_best_report_counts_if_that_is_wanted() -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        for overfit in (1.0, 0.0, 2.0):
            report(far + overfit + 0.1, test=far + overfit + 5.0, epoch=overfit)

    last, best = compare(train), compare(train, result="best")
    for comparison, overfit in ((last, 2.0), (best, 0.0)):
        (winner, *_) = comparison.contenders
        assert winner.value.mean == pytest.approx(5.0 + overfit, abs=0.3)
        assert winner.metrics["epoch"].mean == overfit
        assert comparison.to_json()["contenders"][0]["metrics"]["epoch"]["value"] == overfit
    assert (last.to_json()["result"], best.to_json()["result"]) == ("last", "best")


def test_a_target_of_a_maximized_value_is_reached_from_below() -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        for step in range(1, 21):
            report(0.9 * (1 - math.exp(-step / (5 * (1 + far)))), maximize=True, metric_name="accuracy")

    comparison = compare(train, target=0.8)
    assert comparison.metric == "reports to an accuracy of 0.8"
    first = comparison.contenders[0]
    assert first.value.mean == pytest.approx(5 * math.log(9), rel=0.03)  # where 0.9 (1 - exp(-t/5)) is 0.8
    assert first.missed == 0
    missed = compare(train, target=0.95)
    assert missed.verdict.recommended is None
    with pytest.raises(SettingError, match="the target must be above the"):
        compare(train, target=0.0)


@pytest.mark.parametrize("options", [{"margin": "1e-3"}, {"margin": 50.0}, {"margin": "40%"}])
def test_the_margin_is_stored_and_in_all_words(options: dict[str, Any]) -> None:
    comparison = compare(function_of(lambda far: far + 2.0), **options)
    words = {"1e-3": "0.001", 50.0: "50", "40%": "40 %"}[options["margin"]]
    assert comparison.to_json()["margin"] == words
    assert "3 %" not in comparison.verdict.text
    stored = comparison.store.find()
    assert stored is not None
    assert stored.plan.scale.tolerance == comparison.plan.scale.tolerance is not None


def test_options_that_cannot_be_are_refused() -> None:
    function = function_of(lambda far: far)
    for options, message in (
        ({"scale": "ratio"}, "scale must be 'log' or 'linear', got 'ratio'"),
        ({"result": "first"}, "result must be 'last' or 'best', got 'first'"),
        ({"prefer": "small"}, "prefer must be 'best' or 'cheap', got 'small'"),
        ({"margin": "0"}, "margin must be a share"),
    ):
        with pytest.raises(SettingError, match=message):
            compare(function, **options)


INPUTS = torch.linspace(-1, 1, 24)[:, None]
PARTS = tuple((INPUTS[k::3], 2 * INPUTS[k::3]) for k in range(3))


def line(data: Splits, **options: Any) -> Task:
    loss = thalweg.supervised(nn.functional.mse_loss)
    return Task(model=lambda: nn.Linear(1, 1), loss=loss, data=data, batch_size=8, passes=3, name="line", **options)


@pytest.mark.parametrize(
    ("data", "metric", "caution"),
    [
        (Splits(PARTS[0]), "training loss", "There are no test data: the training data both chose the settings"),
        (Splits(PARTS[0], PARTS[1]), "validation loss", "There are no test data: the validation data both chose"),
        (Splits(PARTS[0], None, PARTS[2]), "test loss", "There are no validation data: the training data chose"),
        (Splits(*PARTS), "test loss", ""),
    ],
)
def test_what_chose_and_what_evaluates_is_said_if_data_are_missing(data: Splits, metric: str, caution: str) -> None:
    comparison = thalweg.compare(line(data), ["sgd"], budget="2trials", workers=1)
    assert comparison.metric == metric
    told = [text for text in comparison.cautions if text.startswith("There are no")]
    assert len(told) == bool(caution)
    assert all(text.startswith(caution) for text in told)
    trial = comparison.contenders[0].trials["search"][0].result
    assert (trial.validation == pytest.approx(trial.train)) == (data.validation is None)
    assert (trial.test == pytest.approx(trial.validation)) == (data.test is None)


def test_a_task_whose_best_counts_is_evaluated_on_the_way_in_every_stage() -> None:
    comparison = thalweg.compare(line(Splits(*PARTS)), ["sgd"], budget="3trials", workers=1, result="best")
    ended = [trial.result for trial in comparison.contenders[0].trials["search"] if trial.result.status == "ok"]
    assert ended
    for result in ended:
        assert len(result.evaluations) >= 4
        assert result.validation == min(evaluation.validation for evaluation in result.evaluations)
        assert result.test == result.evaluations[result.counted].test


def near(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    return ((model(inputs) - targets).abs() < 0.5).float().mean()


def test_a_maximized_metric_of_a_task_is_the_mirror_of_its_negative() -> None:
    def far(model: nn.Module, batch: Any) -> torch.Tensor:
        return -near(model, batch)

    most = thalweg.compare(line(Splits(*PARTS), metric=near, maximize=True), ["sgd"], budget="6trials", workers=1)
    least = thalweg.compare(line(Splits(*PARTS), metric=far), ["sgd"], budget="6trials", workers=1)
    assert (most.metric, most.plan.scale.domain, least.plan.scale.domain) == ("test near", "rate", "real")
    for task in (most, least):
        searched = task.contenders[0].trials["search"]
        assert len({trial.result.validation for trial in searched}) > 1
    best = {
        comparison.metric: max(abs(trial.result.validation) for trial in comparison.contenders[0].trials["search"])
        for comparison in (most, least)
    }
    assert len(set(best.values())) == 1
    assert most.contenders[0].value.mean == pytest.approx(-least.contenders[0].value.mean)
    assert most.contenders[0].settings == least.contenders[0].settings


def test_the_metrics_of_a_task_are_recorded_and_decide_nothing() -> None:
    task = line(Splits(*PARTS), metrics={"near": near})
    with_metrics, without = (
        thalweg.compare(entry, ["sgd"], budget="3trials", workers=1) for entry in (task, replace(task, metrics={}))
    )
    (summary,) = with_metrics.contenders
    assert 0 <= summary.metrics["near"].mean <= 1
    assert summary.value == without.contenders[0].value
    assert without.contenders[0].metrics == {}


@pytest.fixture(scope="module")
def classifier() -> thalweg.Comparison:
    """A maximized value with a second number, from a function that reports nothing else."""

    def train(make_optimizer: Any, report: Any) -> None:
        far = distance(make_optimizer)
        value = math.nan if far > 1.5 else 0.95 / (1 + far / 4)
        report(value, test=value, maximize=True, metric_name="accuracy", recall=value / 2)

    return compare(TrainingFunction(train=train, name="classifier"))


def text_of(page: Path) -> str:
    without_charts = re.sub(r"<svg.*?</svg>", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_charts))


def test_the_page_shows_direction_name_and_further_numbers(classifier: thalweg.Comparison, tmp_path: Path) -> None:
    page = text_of(classifier.report(tmp_path / "report.html"))
    assert "Higher is better." in page
    assert "Lower is better" not in page
    assert "The accuracy chose and evaluates; higher is better." in page
    assert "Scores are compared by the differences of values." in page
    assert "recall Recorded beside the value, at the same seeds; it decides nothing." in page
    assert f"{classifier.contenders[0].metrics['recall'].mean:#.3g}" in page
    assert "reported value" not in page


def test_the_terminal_shows_values_as_they_were_reported(
    classifier: thalweg.Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    print_comparison(classifier)
    shown = capsys.readouterr().out
    assert shown.startswith("classifier: accuracy\n")
    first, second = classifier.contenders
    assert f"{first.value.mean:.4g}" in shown
    assert second.worse_by_text in shown
    assert "reported value" not in shown


def test_lost_seeds_of_a_maximized_value_make_it_an_upper_bound() -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        distance(make_optimizer)
        report(0.9 if torch.rand(()) > 0.35 else math.nan, maximize=True)

    summaries = compare(train, budget="30trials").contenders
    lossy = [summary for summary in summaries if summary.value.lost and math.isfinite(summary.value.mean)]
    assert lossy
    for summary in lossy:
        assert summary.value.bound == "≤ "
        assert summary.value.low == -math.inf
        assert summary.value.mean < 0.9


def test_a_suite_compares_rates_rewards_and_losses() -> None:
    tasks = [
        function_of(lambda far: 0.95 / (1 + far / 4), maximize=True, name="rate"),
        function_of(lambda far: -5.0 - far, maximize=True, name="reward"),
        function_of(lambda far: max(0.0, far - 0.5), name="zero"),
        function_of(lambda far: 2.0 + far, name="loss"),
    ]
    suite = thalweg.compare_suite(tasks, CONTENDERS, budget="6trials", workers=1)
    assert suite.aggregate is not None
    assert not suite.failures
    assert min(ratio.mean for ratio in suite.aggregate.ratio.values()) >= 1.0
    assert all(math.isfinite(ratio.mean) for ratio in suite.aggregate.ratio.values())
    for task, standings in suite.matrix.items():
        for standing in standings.values():
            assert standing.worse_by_text.endswith("%") == (task == "loss"), (task, standing)
    assert json.dumps(suite.to_json(), allow_nan=False)
