"""Statistics: the chance of a wrong statement is the declared one."""

import math

import numpy as np
import pytest
from scipy import stats

from thalweg import statistics
from thalweg.statistics import critical_value, drop, interval, seeds_to_settle, surely_within


def test_the_interval_covers_the_mean_as_often_as_declared() -> None:
    rng = np.random.default_rng(0)
    samples = [interval(list(rng.normal(1.0, size=6))) for _ in range(2000)]
    assert 0.935 < sum(sample.low <= 1.0 <= sample.high for sample in samples) / 2000 < 0.965
    assert interval([2.0]).high == math.inf


def test_two_are_compared_by_a_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 12))
    assert critical_value(0.05, 2, 11) == pytest.approx(stats.t.isf(0.025, 11))
    below = stats.ttest_rel(a, b).pvalue
    for alpha, dropped in ((0.99 * below, 0), (1.01 * below, 1)):
        assert len(drop({"a": list(a), "b": list(b)}, alpha)[1]) == dropped


@pytest.mark.parametrize("members", [2, 5])
def test_identical_contenders_are_seldom_told_apart(members: int) -> None:
    rng = np.random.default_rng(2)
    dropped = 0
    for _ in range(1000):
        shared = rng.normal(size=10)
        values = {f"c{k}": list(shared + 0.5 * rng.normal(size=10)) for k in range(members)}
        dropped += bool(drop(values, 0.05)[1])
    assert 0.02 < dropped / 1000 < 0.07


def test_the_worst_is_dropped_first_and_the_best_comes_first() -> None:
    noise = np.random.default_rng(3).normal(scale=0.01, size=(3, 10))
    values = {name: list(shift + noise[k]) for k, (name, shift) in enumerate({"b": 1.0, "c": 2.0, "a": 0.0}.items())}
    assert drop(values, 0.05) == (["a"], ["c", "b"])
    assert drop({"a": [1.0], "b": [2.0]}, 0.05) == (["a", "b"], [])  # one value has no spread
    assert drop({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [2.0, 2.0]}, 0.05) == (["a", "b"], ["c"])


def test_not_told_apart_is_not_shown_to_be_near() -> None:
    noise = 0.2 * np.random.default_rng(4).normal(size=20)
    leader, near, unknown = np.zeros(20), np.full(20, 0.005), 0.005 + noise
    assert surely_within(list(near), list(leader), 0.03, 0.05, 2)
    assert not surely_within(list(unknown), list(leader), 0.03, 0.05, 2)
    assert seeds_to_settle(list(unknown), list(leader), 0.03) == math.ceil((1.96 * noise.std(ddof=1) / 0.03) ** 2)


def test_scores_at_the_end_of_their_range_have_a_mean_and_a_number_of_seeds() -> None:
    assert statistics.mean([1.5e308, 1.7e308]) == pytest.approx(1.6e308)
    assert statistics.mean([-1.5e308, 1.5e308, -1.5e308, -1.5e308]) == pytest.approx(-0.75e308)
    assert statistics.seeds_to_settle([1e308, -1e308, 1e308], [-1e308, 1e308, 0.0], 1.0) == statistics.MAX_SEEDS
