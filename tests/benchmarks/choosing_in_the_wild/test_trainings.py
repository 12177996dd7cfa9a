"""The trainings of the bench: reproducible scores, contenders, and costs of scores."""

import math
from dataclasses import replace

import pytest

from benchmarks.choosing_in_the_wild.training import CONTENDERS, Training, mean_of, run
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from tests.benchmarks.choosing_in_the_wild.made import BEST_LR, MADE


@pytest.mark.parametrize("training", TRAININGS.values(), ids=lambda training: training.name)
def test_equal_seeds_give_equal_finite_scores(training: Training) -> None:
    first, again, other = (run(training, "adam", {"lr": 2e-3}, seed, steps=3) for seed in (3, 3, 4))
    assert (first.validation, first.test, first.reports) == (again.validation, again.test, again.reports)
    assert math.isfinite(first.validation)
    assert math.isfinite(first.test)
    assert first.validation != first.test
    assert (first.validation, first.test) != (other.validation, other.test)
    if "muon+adamw" in training.contenders:  # the parts of the model are recognized
        assert math.isfinite(run(training, "muon+adamw", {}, 3, steps=3).test)


@pytest.mark.parametrize("training", TRAININGS.values(), ids=lambda training: training.name)
def test_the_learning_rate_matters_and_nothing_learned_scores_worst(training: Training) -> None:
    still = run(training, "sgd", {"lr": 1e-9}, 3, steps=3)
    moved = run(training, "adam", {"lr": 3e-2}, 3, steps=3)
    assert still.validation != moved.validation
    # The declared worst score is about that of an untrained network.
    assert training.cost(training.worst) - training.cost(still.test) < 0.25


def test_contenders_are_known_and_most_trainings_have_all() -> None:
    assert len(TRAININGS) >= 12
    for training in TRAININGS.values():
        assert set(training.contenders) <= set(CONTENDERS)
        assert training.maximize == (training.best_possible is not None)
        assert not (training.maximize and training.scale == "log")
    assert sum(training.contenders == CONTENDERS for training in TRAININGS.values()) >= 10


def test_costs_of_logarithmic_and_linear_scores() -> None:
    assert MADE.cost(math.e) == 1.0
    assert MADE.cost(math.nan) == MADE.cost(math.inf) == MADE.cost(100.0) == math.log(6.0)
    assert MADE.score(MADE.cost(2.5)) == pytest.approx(2.5)
    assert MADE.regret(MADE.cost(1.1), MADE.cost(1.0)) == pytest.approx(0.1)
    accuracy = replace(MADE, maximize=True, scale="linear", unit=2.0, worst=0.25, best_possible=1.0)
    assert accuracy.cost(0.75) == -0.375
    assert accuracy.cost(0.1) == accuracy.cost(math.nan) == -0.125
    assert accuracy.score(accuracy.cost(0.75)) == 0.75
    assert accuracy.regret(accuracy.cost(0.75), accuracy.cost(0.95)) == pytest.approx(0.1)


def test_a_mean_has_its_standard_error() -> None:
    mean = mean_of([1.0, 2.0, 6.0])
    assert (mean.cost, mean.count) == (3.0, 3)
    assert mean.error == pytest.approx(math.sqrt(7 / 3))


def test_a_training_ends_at_a_value_that_is_not_finite() -> None:
    result = run(MADE, "sgd", {"lr": 6.0}, 1)
    assert math.isnan(result.validation)
    assert math.isnan(result.test)
    assert len(result.reports) == 1


def test_reports_are_watched() -> None:
    watched: list[tuple[int, float]] = []
    run(MADE, "sgd", {"lr": BEST_LR}, 1, watch=lambda *report: watched.append(report))
    assert watched == [(1, 2.0), (2, pytest.approx(1.001))]
