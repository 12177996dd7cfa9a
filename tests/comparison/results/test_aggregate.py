"""Aggregates: results computed by hand, and properties of all of them."""

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.comparison.results.aggregate import (
    MAX_RATIO,
    NUM_RATIOS,
    Runs,
    aggregate,
    interquartile_mean,
    profile,
    resample_weights,
)


def runs(*tasks: list[float]) -> Runs:
    """Excesses by task. An infinite one was lost and has the excess of the untrained model, 3."""
    return Runs(
        [[value if math.isfinite(value) else 3.0 for value in task] for task in tasks],
        [[not math.isfinite(value) for value in task] for task in tasks],
    )


def test_the_interquartile_mean_is_that_of_scipy_where_quarters_are_whole() -> None:
    values = np.random.default_rng(0).normal(size=20)
    mean = interquartile_mean(values, np.full((1, 20), 1 / 20))
    assert mean[0] == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)


def test_a_run_on_the_border_of_a_quarter_counts_in_part() -> None:
    # Of six, one and a half are left out at each end: (0.5 * 1 + 2 + 3 + 0.5 * 4) / 3, whatever the ends are.
    result = interquartile_mean(np.array([-90.0, 1.0, 2.0, 3.0, 4.0, 90.0]), np.full((1, 6), 1 / 6))
    assert result[0] == pytest.approx(2.5)
    weights = np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])  # the quarter from 0.25 to 0.5 is the first value
    result = interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), weights)
    assert result[0] == pytest.approx((0.25 * 0 + 0.1 * 1 + 0.1 * 2 + 0.05 * 3) / 0.5)


def test_a_profile_is_the_weight_up_to_each_point() -> None:
    result = profile(np.array([0.0, 1.0, np.inf]), np.array([[0.5, 0.25, 0.25]]), np.array([-1.0, 0.0, 2.0]))
    assert result.tolist() == [[0.0, 0.5, 0.75]]


def test_resamples_are_stratified_and_tasks_count_alike() -> None:
    weights = resample_weights([5, 20], resamples=200)
    assert weights.shape == (201, 25)
    assert weights[0] == pytest.approx([1 / 10] * 5 + [1 / 40] * 20)
    # Each task keeps its weight in each resample, and its runs are drawn as whole runs.
    assert weights[:, :5].sum(axis=1) == pytest.approx(0.5)
    assert weights[:, 5:].sum(axis=1) == pytest.approx(0.5)
    assert (weights[:, :5] * 10) % 1 == pytest.approx(0.0, abs=1e-9)
    assert (weights == resample_weights([5, 20], resamples=200)).all()
    assert len(np.unique(weights, axis=0)) > 190


def test_the_best_contender_of_every_task_is_at_1_everywhere() -> None:
    result = aggregate({"b": runs([0.1, 0.2, 0.3], [0.0, 0.5]), "a": runs([0.0] * 3, [0.0] * 2)})
    assert list(result.ratio) == ["a", "b"]
    assert (result.ratio["a"].low, result.ratio["a"].mean, result.ratio["a"].high) == (1.0, 1.0, 1.0)
    assert set(result.profiles["a"].share) == set(result.profiles["a"].low) == {1.0}
    assert result.ratios[0] == 1.0
    assert result.profiles["b"].share[0] == 0.25  # one run of two, in one task of two
    assert result.profiles["b"].share[-1] == 1.0
    assert result.ratios[-1] == pytest.approx(math.exp(0.5))


def test_a_lost_run_is_never_near_and_counts_as_untrained_in_the_mean() -> None:
    result = aggregate({"a": runs([0.0] * 4), "wild": runs([math.inf] * 4), "shaky": runs([0.1, 0.1, 0.1, math.inf])})
    assert set(result.profiles["wild"].share) == {0.0}
    assert result.ratio["wild"].mean == pytest.approx(math.exp(3.0))
    assert result.profiles["shaky"].share[-1] == 0.75
    assert result.ratio["shaky"].mean == pytest.approx(math.exp(0.1))
    assert result.ratio["shaky"].low <= result.ratio["shaky"].mean <= result.ratio["shaky"].high


def test_profiles_rise_within_their_bands_and_end_at_the_largest_ratio() -> None:
    rng = np.random.default_rng(1)
    result = aggregate({"a": runs(*([*rng.exponential(2.0, size=8)] for _ in range(3)))})
    curve = result.profiles["a"]
    assert len(result.ratios) == len(curve.share) == NUM_RATIOS
    assert result.ratios[-1] == pytest.approx(MAX_RATIO)
    assert (np.diff(curve.share) >= 0).all()
    assert (np.array(curve.low) <= curve.share).all()
    assert (np.array(curve.share) <= curve.high).all()


def test_the_interval_covers_other_seeds_on_the_same_tasks() -> None:
    """As often as the docstring says: in about 93 % with ten seeds. Taking runs for one heap would be far too wide."""
    rng = np.random.default_rng(2)
    levels = np.linspace(0.0, 0.3, 5)[:, None]
    many = (levels + 0.1 * rng.normal(size=(5, 40_000))).ravel()
    truth = float(interquartile_mean(many, np.full((1, many.size), 1 / many.size))[0])
    weights = resample_weights([10] * 5, resamples=400)
    covered = 0
    for _ in range(400):
        result = interquartile_mean((levels + 0.1 * rng.normal(size=(5, 10))).ravel(), weights)
        low, high = np.quantile(result[1:], [0.025, 0.975])
        covered += low <= truth <= high
    assert 0.88 < covered / 400 < 0.97


def test_the_interval_of_tasks_without_spread_has_no_width_however_far_apart_they_are() -> None:
    result = aggregate({"a": runs([0.0] * 6, [2.0] * 6)}).ratio["a"]
    assert result.low == pytest.approx(result.high)
