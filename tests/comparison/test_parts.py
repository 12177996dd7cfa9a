"""The small parts of a comparison, each by itself: budget, horizon, statistics, verdict, seeds."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from thalweg.comparison import budget, seeds
from thalweg.comparison.budget import LADDER, Budget, Counts, as_text, counts
from thalweg.comparison.horizon import SCHEDULES, Horizon, check_schedule
from thalweg.comparison.statistics import Interval, median_interval
from thalweg.comparison.verdict import Standing, judge
from thalweg.errors import BudgetError, SettingError
from thalweg.tasks import seeded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90.0)),
        ("2m", Budget(seconds=120.0)),
        ("1.5h", Budget(seconds=5400.0)),
        ("16trials", Budget(trials=16)),
        ("1 trial", Budget(trials=1)),
    ],
)
def test_a_budget_reads_as_it_is_written(text: str, expected: Budget) -> None:
    assert budget.parse(text) == expected


@pytest.mark.parametrize("text", ["", "2", "fast", "0trials", "-1m", "2d"])
def test_a_budget_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="must read like 90s, 2m, 1h or 16trials"):
        budget.parse(text)


def test_the_highest_rung_that_is_paid_for_is_taken() -> None:
    assert counts(Budget(seconds=100.0), lambda rung: rung.trainings) == LADDER[4]
    assert counts(Budget(seconds=1e9), lambda rung: rung.trainings) == LADDER[-1]


def test_a_budget_that_cannot_be_met_says_the_least_that_can() -> None:
    with pytest.raises(BudgetError, match=r"must be at least 18s here \(9 trainings for each contender\), got 10s"):
        counts(Budget(seconds=10.0), lambda rung: 2.0 * rung.trainings)


def test_a_budget_in_trials_is_kept_exactly() -> None:
    assert counts(Budget(trials=20), lambda rung: math.inf) == Counts(20, 3, 2, 10)
    assert counts(Budget(trials=1), lambda rung: math.inf) == Counts(1, 1, 0, 5)


def test_rungs_differ_by_about_two_in_cost() -> None:
    costs = [rung.trainings for rung in LADDER]
    assert all(1.5 < high / low < 2.2 for low, high in itertools.pairwise(costs))


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1s"), (44.1, "45s"), (130, "3m"), (7000, "2h")])
def test_times_are_rounded_up(seconds: float, text: str) -> None:
    assert as_text(seconds) == text


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_to_paste_is_the_one_that_was_trained(schedule: str) -> None:
    horizon = Horizon(steps=37, schedule=schedule)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scope = {"torch": torch, "optimizer": optimizer}
    exec(horizon.line_of_code() or "scheduler = None", scope)
    for step in range(37):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * horizon.lr_factor(step), abs=1e-9)
        optimizer.step()
        if scope["scheduler"]:
            scope["scheduler"].step()


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(SettingError, match="got 'cosin'. Did you mean cosine"):
        check_schedule("cosin")


def test_a_training_is_looked_at_from_start_to_end() -> None:
    assert Horizon(steps=8, schedule="linear", looks=4).looked_at() == [0, 2, 4, 6, 8]
    assert Horizon(steps=2, schedule="linear", looks=16).looked_at() == [0, 1, 2]


def test_the_interval_of_a_median_covers_it_about_as_often_as_it_says() -> None:
    random_state = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        interval = median_interval(random_state.exponential(size=20))
        assert interval.low <= interval.median <= interval.high
        covered += interval.low <= math.log(2) <= interval.high
    assert 0.90 < covered / 400 < 0.99


def test_what_diverged_counts_as_infinitely_bad() -> None:
    assert median_interval([1.0, math.nan, math.inf]) == Interval(math.inf, 1.0, math.inf)
    assert median_interval([1.0, 2.0, 3.0, 4.0, math.nan]).median == 3.0


def test_the_same_values_give_the_same_interval() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == median_interval([3.0, 1.0, 2.0])


def standing(name: str, values: list[float], state: int = 2, tuned: int = 2) -> Standing:
    return Standing(name, values, median_interval(values), state, tuned)


NOISE = [0.00, 0.01, -0.01, 0.02, -0.02, 0.005, -0.005, 0.015, -0.015, 0.0]


def around(value: float, noise: float = 1.0, order: int = 1) -> list[float]:
    return [value * (1 + noise * one) for one in NOISE[::order]]


def test_a_clear_winner_stands_alone() -> None:
    verdict = judge([standing("a", around(1.0)), standing("b", around(2.0), state=0)], metric="loss")
    assert (verdict.best, verdict.tied, verdict.recommended) == ("a", ["a"], "a")
    assert verdict.text.startswith("a is best: median loss 1 (95 % interval 0.9")
    assert "over 10 fresh seeds" in verdict.text


def test_not_separated_is_not_enough_to_be_recommended() -> None:
    """Their intervals overlap, but the cheaper one may well be 10 % worse."""
    best, cheaper = standing("a", around(1.0, noise=10)), standing("b", around(1.02, noise=10, order=-1), state=0)
    verdict = judge([cheaper, best], metric="loss")
    assert verdict.tied == ["a", "b"]
    assert verdict.recommended == "a"
    assert "not separated from b" in verdict.text


def test_the_cheaper_one_is_recommended_where_pairs_show_it_within_the_margin() -> None:
    best, cheaper = (
        standing("a", around(1.0, noise=10)),
        standing("b", [1.01 * one for one in around(1.0, noise=10)], state=1),
    )
    verdict = judge([best, cheaper], metric="loss")
    assert verdict.tied == ["a", "b"]
    assert (
        "Recommended: b, which is shown to lie within 3 % of the best and keeps less optimizer state." in verdict.text
    )
    simpler = standing("b", [1.01] * 10, tuned=1)
    assert "and has less to tune." in judge([standing("a", [1.0] * 10), simpler], metric="loss").text


def test_a_cheaper_contender_ten_percent_worse_is_seldom_recommended() -> None:
    random_state = np.random.default_rng(0)
    recommended = 0
    for _ in range(300):
        best, worse = (scale * np.exp(0.1 * random_state.standard_normal(5)) for scale in (1.0, 1.1))
        verdict = judge([standing("best", list(best)), standing("worse", list(worse), state=0)], metric="loss")
        # Where noise makes the worse one the lowest, no rule that sees only five seeds can know.
        recommended += verdict.best == "best" and verdict.recommended == "worse"
    assert recommended / 300 < 0.05


def test_what_often_diverges_is_never_recommended_and_the_verdict_says_so() -> None:
    fragile = standing("fragile", [0.12] * 6 + [math.inf] * 4, state=0)
    verdict = judge([fragile, standing("steady", around(0.13))], metric="loss")
    assert (verdict.best, verdict.recommended) == ("steady", "steady")
    assert "fragile diverged on 4 of them." in verdict.text
    alone = judge([fragile], metric="loss")
    assert (alone.best, alone.recommended) == (None, None)


def test_one_contender_is_tuned_not_crowned() -> None:
    assert judge([standing("a", around(1.1))], metric="loss").text.startswith("a reaches a median loss 1.1")


def test_nothing_is_recommended_where_all_diverged() -> None:
    verdict = judge([standing("a", [math.inf] * 5)], metric="loss")
    assert (verdict.best, verdict.tied, verdict.recommended) == (None, [], None)


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
