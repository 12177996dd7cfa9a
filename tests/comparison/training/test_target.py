"""Time to a target: read off the curve, censored where it is never met, and never dropped."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from thalweg import tasks
from thalweg.comparison import compare
from thalweg.comparison.training.result import Evaluation
from thalweg.comparison.training.target import Target
from thalweg.errors import SettingError


def curve(*losses: float) -> list[Evaluation]:
    return [Evaluation(10 * k, math.nan, loss) for k, loss in enumerate(losses)]


def test_the_time_is_read_between_looks() -> None:
    target = Target(0.1, "validation", whole=20.0, unit="passes")
    assert target.time(curve(1.0, 0.1, 0.01)) == pytest.approx(10.0)
    assert target.time(curve(10.0, 1.0, 0.01)) == pytest.approx(15.0)  # half way of the second half, in its logarithm
    assert target.time(curve(1.0, 0.5, 0.2)) == math.inf
    assert target.time(curve(1.0, math.nan, 0.05)) == pytest.approx(20.0)
    assert target.time(curve(1.0, 0.05, 3.0)) < 10.0  # it was there, whatever came then
    assert Target(-1.0, "validation", 20.0, "passes").time(curve(1.0, -3.0)) == pytest.approx(10.0)


def test_of_those_that_miss_it_the_nearest_is_chosen() -> None:
    target = Target(0.1, "validation", whole=20.0, unit="passes")
    near, far, lost = (target.shortfall(curve(1.0, last)) for last in (0.2, 0.9, math.nan))
    assert 0 < near < far < lost


def test_a_comparison_by_time_to_a_target_finds_who_is_soon_there() -> None:
    comparison = compare(tasks.load("quadratic"), ["gd", "momentum"], budget="20trials", target=1e-3)
    first, second = comparison.contenders
    assert first.name == "momentum"
    assert comparison.metric == "steps to a training height of 0.001"
    assert 0 < first.value.mean < second.value.mean <= 300
    value = f"momentum takes {first.value.mean:.4g} steps to a training height of 0.001 (95 % interval "
    assert comparison.verdict.text.startswith(value)
    for summary in comparison.contenders:
        chosen = {name: summary.settings[name] for name in summary.searched}
        measured = [trial for trial in summary.trials[summary.value_stage] if trial.settings == chosen]
        for trial, value in zip(measured, summary.values, strict=True):
            evaluations = trial.result.evaluations
            met = next((k for k, evaluation in enumerate(evaluations) if evaluation.train <= 1e-3), None)
            if met is None:
                assert value == math.inf
            else:
                assert evaluations[met - 1].step < value <= evaluations[met].step
    assert comparison.to_json()["contenders"][0]["missed"] == 0


def test_who_misses_the_target_is_shown_and_never_recommended() -> None:
    comparison = compare(tasks.load("quadratic"), ["gd:lr=1e-4", "momentum"], budget="8trials", target=1e-3)
    slow = comparison.contenders[-1]
    assert (slow.name, slow.missed, slow.lost) == ("gd:lr=1e-4", len(slow.seeds), len(slow.seeds))
    assert slow.value.mean == pytest.approx(300.0)
    assert comparison.to_json()["contenders"][-1]["value"] is None
    assert any(text.startswith("gd:lr=1e-4 missed the target on") for text in comparison.cautions)
    lone = compare(tasks.load("quadratic"), ["gd:lr=1e-4"], budget="4trials", target=1e-3)
    assert lone.verdict.recommended is None
    (least,) = {
        min(evaluation.train for evaluation in summary.result.evaluations)
        for summary in lone.contenders[0].trials["search"]
    }
    assert lone.verdict.text == (
        f"No training of the search met the target, a training height of 0.001: the least that was seen is {least:.4g}."
    )
    assert not any("missed the target" in text for text in lone.cautions)  # it is said, for all


def test_a_target_that_is_met_before_the_first_step_is_refused() -> None:
    with pytest.raises(SettingError, match="the target must be below the training height before the first step"):
        compare(tasks.load("quadratic"), ["gd"], budget="4trials", target=1e6)


def test_a_training_functions_time_is_counted_in_reports() -> None:
    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        param = nn.Parameter(torch.tensor([3.0]))
        optimizer = make_optimizer([param])
        for _ in range(20):
            optimizer.zero_grad()
            param.square().sum().backward()
            optimizer.step()
            report(param.square().sum())

    comparison = compare(train, ["sgd"], budget="8trials", target=0.5)
    assert comparison.metric == "reports to a reported value of 0.5"
    assert 1 <= comparison.contenders[0].value.mean <= 20


def test_a_function_that_stops_at_its_target_took_as_long_as_one_that_goes_on() -> None:
    evaluations = [Evaluation(k + 1, math.nan, loss) for k, loss in enumerate((8.0, 4.0, 2.0, 1.0, 0.5))]
    target = Target(2.0, "validation", whole=20.0, unit="reports")
    assert target.time(evaluations) == target.time(evaluations[:3]) == 3.0


def test_luck_before_the_first_step_does_not_count_as_no_time() -> None:
    assert Target(3.0, "validation", whole=20.0, unit="passes").time(curve(2.9, 1.0)) == 2.0


@pytest.mark.parametrize("target", [math.nan, math.inf, "soon", True])
def test_a_target_must_be_a_number(target: object) -> None:
    with pytest.raises(SettingError, match="target must be a finite number"):
        compare("quadratic", ["gd"], budget="4trials", target=target)  # type: ignore[arg-type]


def test_a_target_below_the_optimum_is_refused_before_the_pilot() -> None:
    with pytest.raises(SettingError, match="at least the optimum, 0, got -1"):
        compare("quadratic", ["gd"], budget="4trials", target=-1.0)
