"""The scale on which runs are compared, with any metric or loss."""

import math

import pytest

from thalweg.diagnosis.judging.scale import Scale, final_score
from thalweg.diagnosis.run_record import RunRecord


def run(*scores: float, blind: tuple[float | None, float | None] = (None, None), ending="complete") -> RunRecord:
    """A run with these scores, every ten steps."""
    return RunRecord("", 0, (), tuple((10 * k, score) for k, score in enumerate(scores)), *blind, ending=ending)


def test_the_mean_of_the_last_two_scores_counts() -> None:
    assert final_score(run(0.1, 0.5, 0.8, 0.9)) == pytest.approx(0.85)


@pytest.mark.parametrize("ending", ["failed", "diverged"])
def test_runs_that_did_not_end_well_are_the_worst(ending: str) -> None:
    assert final_score(run(0.1, 0.5, 0.8, 0.9, ending=ending)) == -math.inf


def test_shares_are_between_a_blind_model_and_the_best_run() -> None:
    best = run(0.1, 0.9, 0.9, blind=(0.1, 0.2))
    scale = Scale([run(0.1, 0.55, 0.55, blind=(0.1, 0.1)), best])
    assert scale.share(0.55) == pytest.approx(0.5)
    assert scale.final_share(best) == 1.0
    assert scale.share(0.05) == 0.0
    assert scale.share(-math.inf) == 0.0
    assert not scale.is_empty


def test_a_metric_far_below_zero_at_the_start_does_not_hide_a_bad_end() -> None:
    """R² of raw targets: all of the way from -8000 to 0 is what a constant reaches."""
    sick = run(-8474.0, -45.0, -45.0, blind=(-8474.0, -0.3))
    cured = run(-0.1, 0.84, 0.84, blind=(-0.1, 0.0))
    scale = Scale([sick, cured])
    assert scale.final_share(sick) == 0.0
    assert scale.final_share(cured) == 1.0


def test_bad_runs_that_jump_about_are_no_noise() -> None:
    bad = run(-8474.0, -60.0, -47.0, -42.0, blind=(-8474.0, -0.7))
    scale = Scale([bad, bad, bad, run(-0.1, 0.77, 0.79, 0.80, blind=(-0.1, 0.0))])
    assert not scale.is_empty
    assert scale.noise < 0.03


def test_a_model_that_comes_trained_has_learnt() -> None:
    scale = Scale([run(0.97, 0.976, 0.975, blind=(0.1, 0.1)), run(0.97, 0.978, 0.978, blind=(0.1, 0.1))])
    assert not scale.is_empty
    assert scale.share(0.97) > 0.98


def test_nothing_is_learnt_if_no_run_exceeds_a_blind_model_beyond_noise() -> None:
    runs = [run(0.58, 0.60, 0.66, 0.64, blind=(0.65, 0.65)), run(0.58, 0.51, 0.60, 0.68, blind=(0.65, 0.65))]
    assert Scale(runs).is_empty


def test_nothing_is_learnt_if_no_run_moves() -> None:
    assert Scale([run(0.11, 0.11, 0.11, blind=(0.1, 0.1))] * 3).is_empty


def test_metrics_of_the_whole_sample_are_measured_from_the_start() -> None:
    """The distance of two means is the same with blind outputs."""
    sick, cured = run(-3.0, -2.9, -2.9, blind=(-3.0, -2.9)), run(-3.0, -0.2, -0.2, blind=(-3.0, -0.2))
    scale = Scale([sick, cured])
    assert not scale.is_empty
    assert scale.final_share(sick) == pytest.approx(0.1 / 2.8)


def test_bounds_that_an_untrained_model_keeps_best_are_measured_from_the_worst() -> None:
    sick, cured = run(-0.2, -100.0, -100.0, blind=(-0.2, -100.0)), run(-0.2, -17.0, -17.0, blind=(-0.2, -17.0))
    scale = Scale([sick, cured])
    assert scale.final_share(sick) == 0.0
    assert scale.final_share(cured) == 1.0


def test_scales_of_failed_runs_alone() -> None:
    scale = Scale([run(ending="failed")])
    assert scale.is_empty
    assert scale.share(1.0) == 0.0


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_a_metric_does_not_matter(factor: float) -> None:
    def at(unit: float) -> Scale:
        scores = [(0.1, 0.5, 0.52, 0.49), (0.1, 0.9, 0.91, 0.92)]
        return Scale([run(*(unit * s for s in row), blind=(unit * 0.1, unit * 0.1)) for row in scores])

    assert at(factor).share(0.5 * factor) == pytest.approx(at(1.0).share(0.5))
    assert at(factor).noise == pytest.approx(at(1.0).noise)


def test_where_training_harms_a_run_is_judged_by_how_far_it_falls() -> None:
    """An untrained model has the best score, -2; runs end at -2, at 20 below, at -1e20, and without an end."""
    fine, worse, worst = (run(-2.0, final, final) for final in (-2.0, -22.0, -1e20))
    scale = Scale([fine, worse, worst])
    assert scale.final_share(fine) == 1.0
    assert scale.final_share(worse) == pytest.approx(0.5)
    assert scale.final_share(worst) == pytest.approx(0.0, abs=1e-9)
    assert scale.share(-math.inf) == 0.0


def test_a_score_of_the_mean_output_says_nothing_of_a_blind_model() -> None:
    """As the distance of two means: the mean of all outputs has it, too."""
    assert not Scale([run(-4.0, -0.2, -0.1, -0.1, -0.1, blind=(-4.0, -0.10001))]).is_empty
    assert Scale([run(-4.0, -0.2, -0.1, -0.1, -0.1005, blind=(-4.0, -0.1008))]).is_empty
