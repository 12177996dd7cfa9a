"""Thresholds of the results, each at the value where the result changes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from cases.comparison_records import PLAN
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.race import Race
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.half_sample_check import HalfSample, halve
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import loss_of
from thalweg.comparison.results.summary import find_edges, good_rates
from thalweg.comparison.results.terms import Terms
from thalweg.comparison.results.verdict import judge
from thalweg.comparison.training.result import TrainingResult
from thalweg.rules import Range


def search_trials(losses: dict[float, float], status: str = "ok") -> list[TrialRecord]:
    """Return the search trials of these learning rates. Their train and test losses have the opposite sign."""
    return [
        TrialRecord("a", "search", 0, k, 0, {"lr": rate}, TrainingResult(status, -loss, loss, -loss))
        for k, (rate, loss) in enumerate(losses.items())
    ]


def test_only_a_training_that_ended_well_has_a_loss() -> None:
    result = TrainingResult("ok", 1.0, 2.0, 3.0)
    assert [loss_of(result, split) for split in ("train", "validation", "test")] == [1.0, 2.0, 3.0]
    for status in ("diverged", "failed", "pruned"):
        assert loss_of(replace(result, status=status), "test") == math.inf
    assert loss_of(replace(result, test=math.nan), "test") == math.inf


def test_rates_within_a_tenth_of_the_best_are_good() -> None:
    assert good_rates(search_trials({1e-3: 2.0, 1e-2: 1.1, 1e-1: 1.0, 1.0: 1.05, 10.0: 1.11}), PLAN) == pytest.approx(
        100.0
    )
    assert good_rates(search_trials({1e-3: 1.0}), PLAN) == 1.0
    assert good_rates(search_trials({1e-3: 1.0}, status="diverged"), PLAN) is None
    assert good_rates([], PLAN) is None


def test_of_many_rates_the_luckiest_twentieth_does_not_set_the_best_loss() -> None:
    # The best of 40 is far below the others; the third best counts, and by it all of them are good.
    losses = {10.0**-k: 1.0 + 0.001 * k for k in range(40)}
    losses[1.0] = 0.5
    assert good_rates(search_trials(losses), PLAN) == pytest.approx(1e39)
    few = dict(list(losses.items())[:19])  # of fewer than 20 the best itself counts
    assert good_rates(search_trials(few), PLAN) == 1.0


@pytest.mark.parametrize(
    ("position", "shown"), [(0.0, True), (0.04, True), (0.06, False), (0.5, False), (0.94, False), (0.96, True)]
)
def test_a_setting_within_a_twentieth_of_an_end_is_at_an_edge(position: float, shown: bool) -> None:
    ranges = {"momentum": Range(0.0, 2.0, "linear")}
    assert [edge.setting for edge in find_edges(ranges, {"momentum": 2 * position})] == (["momentum"] if shown else [])
    assert find_edges(ranges, {"lr": 0.1}) == []


def test_half_of_the_seeds_may_end_no_better_than_untrained() -> None:
    value = Estimate(1.0, 0.9, 1.1, 10, unimproved=5)
    assert value.is_improvement(2.0)
    assert not replace(value, unimproved=6).is_improvement(2.0)
    assert not value.is_improvement(1.0)  # the mean must be better


def findings_of_one(lost: int) -> Findings:
    race = Race({"a": [0.0] * 10}, {"a": [k >= lost for k in range(10)]}, [], ["a"], ["a"], "best", None, None)
    return Findings(None, {"a": (0, 0)}, race, [], {}, {})


def test_if_more_than_half_were_lost_that_is_the_reason_and_not_the_missing_improvement() -> None:
    terms = Terms("reaches a loss of", untrained=2.0)
    for lost, reason in ((5, "not shown to do better"), (6, "was lost")):
        value = Estimate(3.0, 2.5, math.inf, 10, lost=lost, unimproved=10)
        assert reason in judge(findings_of_one(lost), {"a": value}, terms).text


def test_a_half_of_four_gives_a_half_sample_and_one_of_three_does_not() -> None:
    apart = {"a": [0.0, 0.1] * 4, "b": [5.0, 5.2] * 4}
    assert halve(apart) == HalfSample(half=4, all=8, after_half=["a"], after_all=["a"])
    assert halve({name: scores[:7] for name, scores in apart.items()}) is None


def descend(make_optimizer: Any, report: Any) -> None:
    """Train a tiny parameter for five steps."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        report(weight.square().sum())


@pytest.mark.parametrize(("trials", "few"), [(20, True), (21, False)])
def test_fewer_than_sixteen_settings_are_few(trials: int, few: bool) -> None:
    comparison = thalweg.compare(descend, ["sgd"], budget=f"{trials}trials")  # five of them are finals and values
    assert len(comparison.contenders[0].trials["search"]) == trials - 5
    text = "Only 15 settings were searched, of all contenders together."
    assert any(caution.startswith(text) for caution in comparison.cautions) == few


@pytest.mark.parametrize(("switch_at", "never"), [(5, False), (6, True)])
def test_a_switch_after_the_last_step_never_happens(switch_at: int, never: bool) -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    loss = thalweg.supervised(nn.functional.mse_loss)
    task = thalweg.Task(model=lambda: nn.Linear(1, 1), loss=loss, data=(x, x), batch_size=10, passes=2)
    comparison = thalweg.compare(task, [f"then(adam,sgd):switch_at={switch_at}"], budget="1trial")
    assert [schedule.steps for schedule in comparison.plan.schedules.values()] == [6]
    assert any("so that rule never ran. Set a smaller step" in text for text in comparison.cautions) == never
