"""The bench of trainings in the wild: its trainings, the search of their truth, and the regret of a recommendation."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import torch

import thalweg
from benchmarks.choosing_in_the_wild import bank as banks
from benchmarks.choosing_in_the_wild import methods, record, regret, truth
from benchmarks.choosing_in_the_wild.bank import TRUTH_SEEDS, Bank, MissingTrainingError, canonical, source_of
from benchmarks.choosing_in_the_wild.methods import Recommendation, Request
from benchmarks.choosing_in_the_wild.training import CONTENDERS, Training, TrainingRun, mean_of, run
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from benchmarks.choosing_in_the_wild.truth import LEVELS, Level
from thalweg.comparison.contenders.parsing import parse

BEST_LR = 0.01  # of the made training below
SMALL = Level(sobol=8, near=4, retrained=6, seeds=2, finalists=2)


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


# A made training: its score follows from the learning rate, the seed and the split alone.


def score(lr: float, seed: int, split: str) -> float:
    """Return a score by the distance of the rate from the best; seed 0 flatters rates of about 1.2."""
    loss = 1 + abs(math.log10(lr / BEST_LR))
    if seed == 0 and 1.1 < lr < 1.3:
        loss = 0.5  # luck that more seeds do not confirm
    return loss * (1 + 0.001 * (seed % 7)) * (1.02 if split == "test" else 1)


CALLS: list[tuple[float, int]] = []


def train_made(make_optimizer: Any, report: Any, steps: int = 1) -> None:
    seed = torch.initial_seed()
    (group,) = make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups
    CALLS.append((group["lr"], seed))
    if group["lr"] > 5:
        report(math.nan)
    report(2.0)
    report(score(group["lr"], seed, "validation"), test=score(group["lr"], seed, "test"))


def train_maximized(make_optimizer: Any, report: Any, steps: int = 1) -> None:
    """Report 10 less the score of the made training."""
    train_made(
        make_optimizer,
        lambda value, *, train=math.nan, test=math.nan: report(10 - value, train=train, test=10 - test),
    )


MADE = Training(
    name="made",
    about="",
    train=train_made,
    steps=1,
    schedule="constant",
    metric="loss",
    worst=6.0,
    contenders=("sgd", "momentum"),
)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    CALLS.clear()
    return Bank(tmp_path / "bank.jsonl", stored=None)


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


def test_the_bank_trains_nothing_twice(bank: Bank) -> None:
    first = bank.result(MADE, "sgd", {"lr": BEST_LR}, 1)
    bank.result(MADE, "sgd", {"lr": 6.0, "momentum": 0.0}, 1)
    assert CALLS == [(BEST_LR, 1), (6.0, 1)]
    assert bank.path is not None
    reread = Bank(bank.path, stored=None, trains=False)
    assert (
        reread.result(MADE, "sgd", {"lr": BEST_LR}, 1)
        == first
        == TrainingRun(1.001, 1.02102, (2.0, 1.001), first.seconds)
    )
    assert math.isnan(
        reread.result(MADE, "sgd", {"lr": 6.0}, 1).test
    )  # a default that is written out is no other setting
    assert len(CALLS) == 2
    for contender, settings, seed in (
        ("momentum", {"lr": BEST_LR}, 1),
        ("sgd", {"lr": 0.02}, 1),
        ("sgd", {"lr": BEST_LR}, 2),
    ):
        with pytest.raises(MissingTrainingError, match="made"):
            reread.result(MADE, contender, settings, seed)


def test_an_edited_training_is_trained_again(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.result(MADE, "sgd", {"lr": BEST_LR}, 1)
    monkeypatch.setattr(banks, "source_of", lambda train: "edited")
    assert bank.rows(MADE) == []
    bank.result(MADE, "sgd", {"lr": BEST_LR}, 1)
    assert len(CALLS) == 2


def test_the_compressed_bank_is_read_and_always_the_same(bank: Bank, tmp_path: Path) -> None:
    bank.true_value(MADE, "sgd", {"lr": BEST_LR})
    bank.write(tmp_path / "first.gz")
    stored = Bank(None, stored=tmp_path / "first.gz", trains=False)
    stored.write(tmp_path / "second.gz")
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()
    assert stored.true_value(MADE, "sgd", {"lr": BEST_LR}) == bank.true_value(MADE, "sgd", {"lr": BEST_LR})


def test_the_true_value_is_the_mean_test_cost_over_fresh_seeds(bank: Bank) -> None:
    mean = bank.true_value(MADE, "sgd", {"lr": 0.1})
    assert mean.cost == pytest.approx(
        fmean(math.log(2 * 1.02 * (1 + 0.001 * (seed % 7))) for seed in TRUTH_SEEDS), abs=1e-6
    )
    assert mean.count == 20
    assert {seed for _, seed in CALLS} == set(TRUTH_SEEDS)


def test_the_seeds_of_search_and_truth_are_apart() -> None:
    searched = {banks.SEARCH_SEED, *banks.RETRAINING_SEEDS}
    assert not searched & set(TRUTH_SEEDS)
    assert len(TRUTH_SEEDS) == 20
    request = Request(MADE, ("sgd",), 1.0, seed=0)
    assert request.training_seed(0) > max(TRUTH_SEEDS)
    assert Request(MADE, ("sgd",), 1.0, seed=1).training_seed(0) > request.training_seed(50_000)


def test_levels_grow_and_begin_alike() -> None:
    assert all(first.sobol < second.sobol for first, second in pairwise(LEVELS))
    for contender in CONTENDERS:
        few, many = (truth.sobol_settings(contender, count) for count in (4, 8))
        assert few[:4] == many[:4]
        assert few[4:] == many[8:12]
        assert few[0]["lr"] != parse(contender).rule.settings()["lr"]
        assert set(few[0]) == parse(contender).space(2).keys()
        assert set(few[4]) == parse(contender).space(3).keys()


def test_settings_near_a_center_lie_in_the_range() -> None:
    center = {"lr": 10.0, "momentum": 0.9}
    near = truth.settings_near("momentum", [center], 40)
    positions = [parse("momentum").space(3)["lr"].position(settings["lr"]) for settings in near]
    assert max(positions) == 1.0
    assert 0.6 < min(positions) < 0.95
    assert all(settings.keys() <= {"lr", "momentum"} for settings in near)
    assert len({settings.get("momentum") for settings in near}) > 20


def test_the_search_finds_the_best_rate_and_does_not_trust_a_lucky_seed(bank: Bank) -> None:
    finalists = truth.search(bank, MADE, "sgd", SMALL)
    assert len(finalists) == 2
    tried = {lr for lr, seed in CALLS if seed == 0}
    assert any(1.1 < lr < 1.3 for lr in tried)  # a lucky one took part
    assert finalists[0]["lr"] == min(tried, key=lambda lr: abs(math.log10(lr / BEST_LR)))
    assert not any(1.1 < settings["lr"] < 1.3 for settings in finalists)
    trained = len(CALLS)
    assert truth.search(bank, MADE, "sgd", SMALL) == finalists
    assert len(CALLS) == trained
    assert bank.true_value(MADE, "sgd", {}).count == 20  # the starting points are known, too
    assert bank.true_value(MADE, "sgd", parse("sgd").recommended).count == 20
    assert len(CALLS) == trained


def test_validation_ranks_and_not_the_test() -> None:
    bank = Bank(None, stored=None, trains=False)
    for lr, validation, test in ((0.1, 1.0, 2.0), (0.2, 2.0, 1.0)):
        bank.add(MADE, "sgd", {"lr": lr}, 0, TrainingRun(validation, test, (validation,), 1.0))
    ranked = truth.ranked_by(bank, MADE, "sgd", [{"lr": 0.2}, {"lr": 0.1}, {"lr": 0.2}], [0])
    assert ranked == [{"lr": 0.1}, {"lr": 0.2}]


def test_leaders_have_the_lowest_mean_costs(bank: Bank) -> None:
    assert truth.leaders(bank, MADE, 1) == ["sgd"]  # none is known: in the order of the contenders
    bank.true_value(MADE, "sgd", {"lr": 10 * BEST_LR})
    assert truth.leaders(bank, MADE, 1) == ["sgd"]
    bank.true_value(MADE, "momentum", {"lr": 2 * BEST_LR})
    assert truth.leaders(bank, MADE, 1) == ["momentum"]
    assert truth.leaders(bank, MADE, 5) == ["momentum", "sgd"]
    assert list(truth.units({"made": ("momentum", "sgd"), "more": ("adam",)}, [1, 2])) == [
        ("more", "adam", 1), ("made", "momentum", 1), ("made", "sgd", 1),
        ("more", "adam", 2), ("made", "momentum", 2), ("made", "sgd", 2),
    ]  # fmt: skip


def condensed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    levels = replace(SMALL, sobol=2, near=0), SMALL
    monkeypatch.setattr(record, "LEVELS", levels)
    for level in levels:
        for contender in MADE.contenders:
            truth.search(bank, MADE, contender, level)
    frozen = Bank(bank.path, stored=None, trains=False)
    return record.condense(frozen, {"made": MADE})


def check_schema(stored: Mapping[str, Any], trainings: Mapping[str, Training]) -> None:
    """Check what readers of a record rely on."""
    assert stored["seeds_of_the_truth"] == [TRUTH_SEEDS[0], TRUTH_SEEDS[-1]]
    assert {"machine", "versions", "levels"} < stored.keys()
    for name, entry in stored["trainings"].items():
        training = trainings[name]
        assert entry["source"] == source_of(training.train), f"{name} was edited; run search and condense"
        assert entry["contenders"].keys() == set(training.contenders)
        known = {key: item for key, item in entry["contenders"].items() if item["level"]}
        assert bool(known) == (entry["best"] is not None)
        for item in known.values():
            best = item["best"]
            assert item["regret"] == pytest.approx(
                training.regret(best["cost"], known[entry["best"]]["best"]["cost"]), abs=1e-4
            )
            assert item["regret"] >= 0
            assert best["standard_error"] > 0
            assert training.score(best["cost"]) == pytest.approx(best["test"], rel=1e-4)
            assert item["trainings"] > 20
        costs = [value["cost"] for value in entry["values"]]
        assert costs == sorted(costs)
        assert len(costs) >= len(known)


def test_the_record_of_a_made_search(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(json.dumps(condensed(bank, monkeypatch), allow_nan=False))
    check_schema(stored, {"made": MADE})
    entry = stored["trainings"]["made"]
    assert {item["level"] for item in entry["contenders"].values()} == {2}
    assert len(entry["contenders"]["sgd"]["starts"]) == 2
    diverged = sum(item["diverged"] for item in entry["contenders"].values())
    assert diverged == sum(lr > 5 for lr, _ in CALLS) > 0


def test_a_better_setting_that_a_method_recommended_becomes_the_truth(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = condensed(bank, monkeypatch)["trainings"]["made"]
    bank.true_value(MADE, "momentum", {"lr": BEST_LR})
    bank.result(MADE, "sgd", {"lr": BEST_LR}, TRUTH_SEEDS[-1])  # a single seed is no evaluation
    after = condensed(bank, monkeypatch)["trainings"]["made"]
    assert after["best"] == "momentum"
    assert after["contenders"]["momentum"]["best"]["settings"] == {"lr": BEST_LR}
    assert after["contenders"]["sgd"]["best"] == before["contenders"]["sgd"]["best"]
    assert after["contenders"]["sgd"]["regret"] > before["contenders"]["sgd"]["regret"]
    assert len(after["values"]) == len(before["values"]) + 1


def test_an_unfinished_search_is_called_so(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LEVELS", (SMALL,))
    truth.search(bank, MADE, "sgd", SMALL)
    bank.result(MADE, "momentum", {"lr": 0.1}, 0)
    entry = record.condense(Bank(bank.path, stored=None, trains=False), {"made": MADE})["trainings"]["made"]
    assert entry["contenders"]["momentum"] == {"level": 0, "trainings": 1}
    assert entry["best"] == "sgd"
    assert regret.best_of({"trainings": {"made": entry}}, MADE)[0] == ("sgd",)


def test_the_committed_record() -> None:
    stored = regret.load_record()
    assert stored["trainings"].keys() == TRAININGS.keys()
    check_schema(stored, TRAININGS)


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
    mean = math.exp(fmean(math.log(2 * 1.02 * (1 + 0.001 * (seed % 7))) for seed in TRUTH_SEEDS))
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
    assert row["covered"] is False


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
    assert 1 <= recommendation.trainings <= 4
    assert recommendation.interval is None
    assert recommendation.note.startswith("No training has ended")
