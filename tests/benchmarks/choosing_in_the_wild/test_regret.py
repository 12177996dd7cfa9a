"""The regret of a recommendation, and the methods that recommend."""

import json
import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import optuna
import pytest

import thalweg
from benchmarks.choosing_in_the_wild import methods, regret
from benchmarks.choosing_in_the_wild.bank import VALUE_SEEDS, Bank, canonical, source_of
from benchmarks.choosing_in_the_wild.methods import Recommendation, Request
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from tests.benchmarks.choosing_in_the_wild.made import CALLS, MADE, score, train_made
from thalweg.comparison.contenders.parsing import parse


def train_maximized(make_optimizer: Any, report: Any, steps: int = 1) -> None:
    """Report 10 less the score of the made training."""
    train_made(
        make_optimizer,
        lambda value, *, train=math.nan, test=math.nan: report(10 - value, train=train, test=10 - test),
    )


# The judge, on a record made by hand: the best mean cost is log(1.25).

HAND_MADE = {
    "trainings": {
        "made": {
            "source": source_of(train_made),
            "best": "momentum",
            "contenders": {
                "sgd": {"level": 1, "best": {"cost": math.log(1.5)}},
                "momentum": {"level": 2, "best": {"cost": math.log(1.25)}},
                "adam": {"level": 0},
            },
        }
    }
}


def test_the_regret_by_hand(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []

    def recommend(request: Request) -> Recommendation:
        requests.append(request)
        return Recommendation("sgd", {"lr": 0.1}, 7, (1.9, 2.06))

    monkeypatch.setitem(methods.METHODS, "made", recommend)
    row = regret.judge(bank, HAND_MADE, MADE, "made", "30trainings", 2, count=True)
    mean = math.exp(fmean(math.log(2 * 1.02 * (1 + 0.001 * (seed % 7))) for seed in VALUE_SEEDS))
    assert row["regret"] == pytest.approx(mean / 1.25 - 1, abs=1e-6)
    assert row["test"] == pytest.approx(mean, abs=1e-6)
    assert row["covered"] is True
    assert json.loads(json.dumps(row))["settings"] == {"lr": 0.1}
    (request,) = requests
    assert (request.contenders, request.seed, request.trainings) == (("sgd", "momentum"), 2, 30)
    assert row["seconds"] == request.seconds > 0


def test_a_refusal_counts_as_nothing_learned(bank: Bank) -> None:
    row = regret.regret_of(bank, MADE, Recommendation(None, {}, note="refused"), math.log(1.25))
    assert row["regret"] == pytest.approx(6.0 / 1.25 - 1)
    assert row["covered"] is None
    assert not CALLS


def test_an_interval_beside_the_true_mean_does_not_cover(bank: Bank) -> None:
    row = regret.regret_of(bank, MADE, Recommendation("sgd", {"lr": 0.1}, interval=(2.06, 3.0)), 0.0)
    assert (row["covered"], row["covered_with_error"]) == (False, False)


def test_an_interval_of_scores_that_are_maximized_covers(bank: Bank) -> None:
    accuracy = replace(MADE, maximize=True, scale="linear", worst=0.0, best_possible=10.0, train=train_maximized)
    row = regret.regret_of(bank, accuracy, Recommendation("sgd", {"lr": 0.1}, interval=(7.9, 8.0)), 0.0)
    assert 7.9 < row["test"] < 8.0
    assert (row["covered"], row["covered_with_error"]) == (True, True)


@pytest.mark.parametrize(("error", "covered"), [(0.14, False), (0.16, True)])
def test_the_error_of_a_mean_widens_an_interval_in_quadrature(error: float, covered: bool) -> None:
    """Half of the interval is 0.4, and the mean lies 0.5 beside its center: 0.3 are missing."""
    for cost in (0.9, 1.9):
        assert regret.covers(1.0, 1.8, cost, error) == (False, covered)
    assert regret.covers(1.0, 1.8, 1.75, 0.0) == (True, True)


@pytest.mark.parametrize(("seeds", "quantile", "share"), [(5, 2.776, 0.932), (20, 2.093, 0.844)])
def test_exact_intervals_miss_a_mean_of_20_seeds_more_often_than_the_true_mean(
    seeds: int, quantile: float, share: float
) -> None:
    generator, runs = np.random.default_rng(0), 4000
    own, true = generator.standard_normal((runs, seeds)), generator.standard_normal((runs, 20))
    half = quantile * own.std(1, ddof=1) / math.sqrt(seeds)
    ends = own.mean(1)[:, None] + half[:, None] * [-1, 1]
    errors = true.std(1, ddof=1) / math.sqrt(20)
    results = [
        regret.covers(low, high, mean, error)
        for (low, high), mean, error in zip(ends, true.mean(1), errors, strict=True)
    ]
    covered, with_error = np.mean(results, axis=0)
    assert covered == pytest.approx(share, abs=0.015)
    assert 0.94 < with_error < 0.97


def test_no_judgement_without_the_truth_of_this_version() -> None:
    with pytest.raises(LookupError, match="no truth"):
        regret.best_of({"trainings": {}}, MADE)
    edited = {"trainings": {"made": {**HAND_MADE["trainings"]["made"], "source": "edited"}}}
    with pytest.raises(LookupError, match="no truth"):
        regret.best_of(edited, MADE)


def test_the_summary_by_hand() -> None:
    rows = [
        {
            "method": "a",
            "budget": "20trainings",
            "regret": k / 10,
            "wall_s": 9.0,
            "seconds": 10.0,
            "contender": name,
            "covered": covered,
            "covered_with_error": None if covered is None else covered or k == 1,
        }
        for k, name, covered in (
            (0, "sgd", True),
            (1, "sgd", False),
            (2, None, None),
            (4, "sgd", True),
            (10, "sgd", True),
        )
    ]
    ((method, budget, numbers),) = regret.summarize(rows)
    assert (method, budget) == ("a", "20trainings")
    assert numbers == {
        "runs": 5,
        "median": 0.2,
        "p90": pytest.approx(0.76),
        "time_used": pytest.approx(0.9),
        "refused": 1,
        "covered": 0.75,
        "covered_with_error": 1.0,
    }


@pytest.mark.parametrize("text", ["60", "0trainings", "-1trainings", "60s", "1.5trainings"])
def test_a_budget_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="60trainings"):
        regret.parse_budget(text)


@pytest.mark.parametrize("method", ["optuna", "optuna-pruned", "random"])
def test_methods_search_and_recommend_what_validation_prefers(method: str) -> None:
    CALLS.clear()
    request = Request(MADE, MADE.contenders, 60.0, seed=1, trainings=12)
    recommendation = methods.METHODS[method](request)
    assert recommendation.trainings == 12 == len(CALLS)
    assert recommendation.contender in MADE.contenders
    lr = recommendation.settings["lr"]
    seed = next(seed for called, seed in CALLS if called == lr)
    costs = {called: MADE.cost(score(called, seed, "validation")) for called, _ in CALLS if called <= 5}
    assert costs[lr] == min(costs.values())
    assert canonical(recommendation.contender, recommendation.settings)["lr"] == lr


@pytest.mark.parametrize(("method", "prunes"), [("optuna", False), ("optuna-pruned", True)])
def test_only_one_optuna_prunes(method: str, prunes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    studies: list[optuna.Study] = []
    create = optuna.create_study

    def create_study(**options: Any) -> optuna.Study:
        studies.append(create(**options))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", create_study)
    methods.METHODS[method](Request(MADE, MADE.contenders, 60.0, seed=1, trainings=20))
    states = [trial.state for trial in studies[0].trials]
    assert (optuna.trial.TrialState.PRUNED in states) == prunes
    assert studies[0].trials[0].intermediate_values[1] == pytest.approx(math.log(2.0))


def test_thalweg_takes_part_with_its_public_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    compare, budgets = thalweg.compare, []

    def compare_by_trials(*arguments: Any, budget: str, **options: Any) -> thalweg.Comparison:
        budgets.append(budget)
        return compare(*arguments, budget="8trials", **options)  # the plan for a time depends on the machine

    monkeypatch.setattr(thalweg, "compare", compare_by_trials)
    accuracy = replace(MADE, maximize=True, scale="linear", worst=0.0, best_possible=10.0, train=train_maximized)
    for training in (MADE, accuracy):
        recommendation = methods.METHODS["thalweg"](Request(training, MADE.contenders, 20.0, seed=2))
        assert recommendation.contender in MADE.contenders
        assert 0.001 < recommendation.settings["lr"] < 0.1
        assert recommendation.interval is not None
        low, high = recommendation.interval
        true = Bank(None, stored=None).true_value(training, recommendation.contender, recommendation.settings)
        assert low - 0.01 < training.score(true.cost) < high + 0.01
        assert high - low < 0.1
    assert budgets == ["20.000s", "20.000s"]


def test_thalweg_answers_in_a_time_in_which_no_training_ends() -> None:
    recommendation = methods.METHODS["thalweg"](Request(TRAININGS["fine-tuning"], ("sgd", "adam"), 0.001, seed=1))
    assert recommendation.contender is not None
    entrant = parse(recommendation.contender)  # at its starting point or its defaults, which are tried first
    assert recommendation.settings["lr"] in (entrant.recommended["lr"], entrant.rule.settings()["lr"])
    assert recommendation.trainings is not None
    assert recommendation.trainings <= 4  # on a busy machine even the first one is stopped
    assert recommendation.interval is None
    assert recommendation.note.startswith(("No training has ended", "Nothing is known yet"))
