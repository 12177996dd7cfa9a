"""The small parts of a comparison, each by itself: budget, scale, seeds."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

from thalweg.comparison.planning import budget, seeds
from thalweg.comparison.planning.budget import Budget, as_text, ladder
from thalweg.comparison.protocol.design import Design
from thalweg.errors import BudgetError
from thalweg.tasks import seeded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90.0)),
        ("2m", Budget(seconds=120.0)),
        ("1.5h", Budget(seconds=5400.0)),
        ("16trials", Budget(trials=16)),
        ("1 trial", Budget(trials=1)),
        ("8x24trials", Budget(trials=24, studies=8)),
        ("100000steps", Budget(steps=100000)),
        ("500 passes", Budget(passes=500)),
    ],
)
def test_a_budget_reads_as_it_is_written(text: str, expected: Budget) -> None:
    assert budget.parse(text) == expected


@pytest.mark.parametrize("text", ["", "2", "fast", "0trials", "1x8trials", "-1m", "2d"])
def test_a_budget_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="must read like 90s, 2m, 1h, 16trials, 8x24trials, 100000steps or 500passes"):
        budget.parse(text)


def most(design: Design) -> float:
    return design.most_trainings


@pytest.mark.parametrize("num_contenders", [1, 3])
def test_the_highest_rung_that_is_paid_for_is_taken(num_contenders: int) -> None:
    rungs = ladder(num_contenders)
    assert budget.design(Budget(seconds=1e9), num_contenders, predict=most) == rungs[-1]
    assert budget.design(Budget(steps=rungs[3].most_trainings), num_contenders, predict=most) == rungs[3]


def test_a_budget_that_cannot_be_met_says_the_least_that_can() -> None:
    for allowed, unit, message in (
        (Budget(seconds=10.0), "s", r"at least 33s here \(19 trainings for each contender\), got 10s"),
        (Budget(steps=10), "steps", "at least 28steps here"),
    ):
        with pytest.raises(BudgetError, match=message):
            budget.design(allowed, 2, predict=lambda rung: 2.0 * rung.most_trainings, unit=unit)


def test_two_minutes_that_nobody_asked_for_refuse_nobody() -> None:
    requested, default = budget.parse("2m"), budget.parse(None)
    assert budget.design(default, 7, predict=most) == budget.design(requested, 7, predict=most)
    assert budget.design(default, 7, predict=lambda rung: 1e6) == ladder(7)[0]
    with pytest.raises(BudgetError):
        budget.design(requested, 7, predict=lambda rung: 1e6)


def test_a_budget_in_trials_is_kept_exactly() -> None:
    for trials, retrained in ((20, 3), (1, 1)):
        design = budget.design(Budget(trials=trials), 2, predict=most)
        assert (design.draws, design.retrained, design.ranking) == (trials, retrained, ())
    design = budget.design(Budget(trials=24, studies=8), 2, predict=most)
    assert (design.draws, design.studies) == (24, 8)


def test_rungs_differ_by_about_two_in_cost_and_spend_five_percent_on_each_question() -> None:
    for rungs in (ladder(1), ladder(2)):
        costs = [rung.most_trainings for rung in rungs]
        assert all(1.3 < high / low < 3.5 for low, high in itertools.pairwise(costs)), costs
        for rung in rungs:
            assert math.isclose(sum(analysis.alpha for analysis in rung.race), 0.05)
            assert not rung.ranking or math.isclose(sum(analysis.alpha for analysis in rung.ranking), 0.05)
            assert Design.from_json(json.loads(json.dumps(rung.to_json()))) == rung


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1s"), (44.1, "45s"), (130, "3m"), (7000, "2h")])
def test_times_are_rounded_up(seconds: float, text: str) -> None:
    assert as_text(seconds) == text


def test_seeds_differ_by_purpose_and_index() -> None:
    derived = {seeds.derive(seed, purpose, index) for seed in (0, 1) for purpose in ("a", "b") for index in (0, 1)}
    assert len(derived) == 8
    assert seeds.derive(0, "a") == seeds.derive(0, "a")


def test_random_states_are_set_and_put_back() -> None:
    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    draw()
    with seeded(5):
        first = draw()
    between = draw()
    with seeded(5):
        assert draw() == first
    assert draw() != between
