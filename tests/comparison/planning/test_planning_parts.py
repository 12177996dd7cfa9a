"""The small parts of a comparison, each by itself: budget, scale, seeds."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

from thalweg.comparison.planning import budget, seeds
from thalweg.comparison.planning.budget import RANKED, Budget, ranked_design
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.errors import BudgetError
from thalweg.tasks import seeded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90.0)),
        ("2m", Budget(seconds=120.0)),
        ("2 min", Budget(seconds=120.0)),
        ("90sec", Budget(seconds=90.0)),
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


@pytest.mark.parametrize(
    "text", ["", "2", "fast", "0trials", "1x8trials", "-1m", "2d", "0s", "0m", "0steps", "0passes", "0x4trials"]
)
def test_a_budget_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="must read like 90s, 2m, 1h, 16trials, 8x24trials, 100000steps or 500passes"):
        budget.parse(text)


@pytest.mark.parametrize("text", ["1000000x1000000trials", "2x500001trials", "1000001trials"])
def test_a_budget_that_never_ends_is_refused_at_once(text: str) -> None:
    with pytest.raises(BudgetError, match="at most 1,000,000 trials"):
        budget.parse(text)
    assert budget.parse("1000000trials").trials == 1_000_000


def most(design: Design) -> float:
    return design.most_trainings


def test_the_largest_ranking_that_is_paid_for_is_taken() -> None:
    assert ranked_design(Budget(seconds=1e9), 3, predict=most) == RANKED[-1]
    assert ranked_design(Budget(steps=int(most(RANKED[1]))), 3, predict=most) == RANKED[1]
    assert ranked_design(Budget(passes=int(most(RANKED[1])) - 1), 3, predict=most) == RANKED[0]


def test_a_budget_that_pays_for_no_ranking_is_not_refused() -> None:
    for allowed in (Budget(seconds=0.001), Budget(steps=1), Budget(passes=1), Budget(trials=16)):
        assert ranked_design(allowed, 3, predict=most) is None
    assert ranked_design(Budget(seconds=1e9), 1, predict=most) is None  # a contender alone is not ranked


def test_a_ranking_is_made_as_it_is_requested() -> None:
    design = ranked_design(Budget(trials=24, studies=8), 2, predict=lambda design: math.inf)
    assert design is not None
    assert (design.draws, design.studies) == (24, 8)
    few = ranked_design(Budget(trials=2, studies=3), 2, predict=most)
    assert few is not None
    assert (few.draws, few.retrained, few.ranking) == (2, 2, (InterimAnalysis(3, 0.05),))


@pytest.mark.parametrize(
    ("text", "total", "trainings"),
    [("16trials", 48, 48.0), ("8x24trials", 576, 576.0), ("3000steps", 9000, 90.0), ("60passes", 180, 36.0)],
)
def test_a_counted_budget_is_for_each_contender(text: str, total: float, trainings: float) -> None:
    allowed = budget.parse(text)
    assert allowed.total(3) == total
    assert allowed.in_trainings(3, steps=100, passes=5) == trainings
    assert budget.parse("2m").total(3) == 120.0
    assert budget.parse(None) == budget.parse("2m")


def test_designs_differ_by_about_two_in_cost_and_spend_five_percent_on_each_question() -> None:
    costs = [design.most_trainings for design in RANKED]
    assert all(1.3 < high / low < 3.5 for low, high in itertools.pairwise(costs)), costs
    for design in RANKED:
        assert math.isclose(sum(analysis.alpha for analysis in design.race), 0.05)
        assert math.isclose(sum(analysis.alpha for analysis in design.ranking), 0.05)
        assert Design.from_json(json.loads(json.dumps(design.to_json()))) == design


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
