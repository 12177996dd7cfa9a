"""The headline of a suite and its matrix: where their means name different contenders, the text says so."""

from types import SimpleNamespace
from typing import Any

import pytest

from thalweg.comparison import Suite
from thalweg.comparison.results.aggregate import Aggregate
from thalweg.comparison.suite_standing import Standing
from thalweg.statistics import Interval


def suite_of(matrix: dict[str, dict[str, float]], interquartile: dict[str, float]) -> Suite:
    """Return a suite with these differences from the best of each task, and these interquartile means as ratios."""

    def comparison_of(shares: dict[str, float]) -> Any:
        leader = min(shares, key=lambda name: shares[name])
        race = SimpleNamespace(remaining=[leader])
        contenders = [SimpleNamespace(beside_leader=[("trial", "trial")])]
        return SimpleNamespace(findings=SimpleNamespace(race=race), contenders=contenders)

    suite = Suite({task: comparison_of(shares) for task, shares in matrix.items()}, {})
    ratios = {name: Interval(ratio, ratio, ratio) for name, ratio in interquartile.items()}
    suite.__dict__ |= {
        "matrix": {
            task: {
                name: Standing(share, 0, 5, share == 0, share == 0, ratio=1 + share) for name, share in shares.items()
            }
            for task, shares in matrix.items()
        },
        "aggregate": Aggregate(ratios, [], {}),
        "contenders": list(interquartile),
        "_aggregated_tasks": list(matrix),
    }
    return suite


MATRIX = {"a": {"sgd": 0.0, "adam": 0.02}, "b": {"sgd": 0.0, "adam": 0.02}, "c": {"sgd": 0.5, "adam": 0.0}}
START = (
    "Over 3 tasks, sgd stays nearest to the best of each task: it is 1.0 % worse in the interquartile mean (95 % "
    "interval 1.0 % to 1.0 %). Best mean: sgd on 2 tasks, adam on 1 task."
)


def test_the_plain_means_are_those_of_the_matrix() -> None:
    means = suite_of(MATRIX, {"sgd": 1.01, "adam": 1.02}).plain_means
    assert list(means) == ["adam", "sgd"]
    assert means["sgd"] == pytest.approx(1.5 ** (1 / 3) - 1)
    assert means["adam"] == pytest.approx(1.02 ** (2 / 3) - 1)


def test_a_text_says_where_the_means_name_different_contenders() -> None:
    assert suite_of(MATRIX, {"sgd": 1.01, "adam": 1.02}).text == (
        f"{START} In the plain mean over the tasks, adam is nearest (1.3 % worse, sgd 14.5 %): the interquartile mean "
        "leaves out the best and the worst quarter of the runs."
    )


def test_a_text_is_short_where_the_means_agree() -> None:
    agreeing = MATRIX | {"c": {"sgd": 0.01, "adam": 0.0}}
    assert suite_of(agreeing, {"sgd": 1.01, "adam": 1.02}).text == START


def test_a_contender_without_a_finite_difference_has_no_plain_mean() -> None:
    missing = MATRIX | {"c": {"sgd": float("nan"), "adam": 0.0}}
    suite = suite_of(missing, {"sgd": 1.01, "adam": 1.02})
    assert list(suite.plain_means) == ["adam"]
    assert "plain mean" not in suite.text
