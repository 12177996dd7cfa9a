"""Critical values: literals from the tables of the t and of the studentized range distribution, at small samples."""

import math

import pytest

from thalweg.statistics import critical_value, drop, interval, seeds_to_settle, surely_within

# Two-sided 5 % points of t, by degrees of freedom.
T = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622}
# Upper 5 % points of the studentized range, by (members, degrees of freedom).
Q = {(3, 2): 8.3308, (3, 3): 5.9096, (4, 2): 9.7990, (3, 10): 3.8776}


def differing(errors: float) -> list[float]:
    """Return three values whose mean is so many of their standard errors."""
    spread = math.sqrt(3)  # of -1, 0 and 1 times this, the standard error is 1
    return [errors - spread, errors, errors + spread]


@pytest.mark.parametrize(("freedom", "value"), T.items())
def test_two_contenders_are_compared_by_a_value_of_t(freedom: int, value: float) -> None:
    assert critical_value(0.05, 2, freedom) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(("key", "value"), Q.items())
def test_more_contenders_are_compared_by_a_value_of_the_studentized_range(key: tuple[int, int], value: float) -> None:
    assert critical_value(0.05, *key) == pytest.approx(value / math.sqrt(2), rel=1e-3)


def test_three_pairs_have_two_degrees_of_freedom() -> None:
    leader = [0.0, 0.0, 0.0]
    assert drop({"a": leader, "b": differing(T[2] - 0.1)}, 0.05) == (["a", "b"], [])
    assert drop({"a": leader, "b": differing(T[2] + 0.1)}, 0.05) == (["a"], ["b"])


def test_of_three_the_worst_is_compared_among_three_and_the_next_among_two() -> None:
    leader, three = [0.0, 0.0, 0.0], Q[3, 2] / math.sqrt(2)
    assert three > T[2] + 1
    # Neither difference exceeds the critical value among three.
    assert drop({"a": leader, "b": differing(three - 0.3), "c": differing(three - 0.1)}, 0.05)[1] == []
    # c does. Then two are left, and b exceeds the critical value among two.
    assert drop({"a": leader, "b": differing(three - 0.3), "c": differing(three + 0.1)}, 0.05)[1] == ["c", "b"]
    assert drop({"a": leader, "b": differing(T[2] - 0.1), "c": differing(three + 0.1)}, 0.05)[1] == ["c"]


def test_the_largest_difference_in_standard_errors_is_dropped_first_whatever_its_mean() -> None:
    values = {"a": [0.0, 0.0, 0.0], "sure": differing(20.0), "far": [4 * value for value in differing(10.0)]}
    assert drop(values, 0.05)[1] == ["sure", "far"]


@pytest.mark.parametrize(("members", "value"), [(1, T[2]), (2, T[2]), (3, Q[3, 2] / math.sqrt(2))])
def test_values_are_surely_within_a_margin_above_their_mean_by_so_many_errors(members: int, value: float) -> None:
    values, leader = differing(1.0), [0.0, 0.0, 0.0]
    assert surely_within(values, leader, 1.0 + value + 0.05, 0.05, members)
    assert not surely_within(values, leader, 1.0 + value - 0.05, 0.05, members)
    # From the leader, not from zero; and better ones are within.
    assert surely_within([5 + score for score in values], [5.0] * 3, 1.0 + value + 0.05, 0.05, members)
    assert surely_within([-10 + score for score in values], leader, 0.0, 0.05, members)
    assert not surely_within([1.0], [1.0], 1.0, 0.05, members)  # one pair has no spread


def test_an_interval_has_one_degree_of_freedom_less_than_values() -> None:
    for values, freedom, error in (([0.0, 2.0], 1, 1.0), (differing(5.0), 2, 1.0), ([0.0] * 9 + [10.0], 9, 1.0)):
        estimate = interval(values)
        mean = sum(values) / len(values)
        assert estimate.mean == pytest.approx(mean)
        assert estimate.high - mean == pytest.approx(T[freedom] * error, rel=1e-4)
        assert mean - estimate.low == pytest.approx(T[freedom] * error, rel=1e-4)


def test_seeds_that_settle_by_hand() -> None:
    # The standard deviation of 0.1 (-1, 0, 1) is 0.1: (1.96 · 0.1 / 0.03)² = 42.7.
    assert seeds_to_settle([0.9, 1.0, 1.1], [1.0, 1.0, 1.0], 0.03) == 43
