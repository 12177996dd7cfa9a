"""The search of the true best settings, and the record of it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.choosing_in_the_wild import __main__ as wild
from benchmarks.choosing_in_the_wild import bank as banks
from benchmarks.choosing_in_the_wild import record, regret, truth
from benchmarks.choosing_in_the_wild.bank import TRUTH_SEEDS, VALUE_SEEDS, Bank, source_of
from benchmarks.choosing_in_the_wild.methods import Request
from benchmarks.choosing_in_the_wild.training import CONTENDERS, Training, TrainingRun
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from benchmarks.choosing_in_the_wild.truth import LEVELS, Level
from tests.benchmarks.choosing_in_the_wild.made import BEST_LR, CALLS, MADE, score
from thalweg.comparison.contenders.parsing import parse

SMALL = Level(sobol=8, near=4, retrained=6, seeds=2, finalists=2)


def test_the_seeds_of_search_and_truth_are_apart() -> None:
    searched = {banks.SEARCH_SEED, *banks.RETRAINING_SEEDS}
    assert not searched & {*TRUTH_SEEDS, *VALUE_SEEDS}
    assert not set(TRUTH_SEEDS) & set(VALUE_SEEDS)
    assert len(TRUTH_SEEDS) == len(VALUE_SEEDS) == 20
    request = Request(MADE, ("sgd",), 1.0, seed=0)
    assert request.training_seed(0) > max(*TRUTH_SEEDS, *VALUE_SEEDS)
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


def test_validation_ranks_and_not_the_test() -> None:
    bank = Bank(None, stored=None, trains=False)
    for lr, validation, test in ((0.1, 1.0, 2.0), (0.2, 2.0, 1.0)):
        bank.add(MADE, "sgd", {"lr": lr}, 0, TrainingRun(validation, test, (validation,), 1.0))
    ranked = truth.ranked_by(bank, MADE, "sgd", [{"lr": 0.2}, {"lr": 0.1}, {"lr": 0.2}], [0])
    assert ranked == [{"lr": 0.1}, {"lr": 0.2}]


def evaluate(bank: Bank, contender: str, lr: float) -> None:
    """Train a learning rate from the seeds of the truth, as a search does with its finalists."""
    truth.ranked_by(bank, MADE, contender, [{"lr": lr}], TRUTH_SEEDS)


def test_leaders_have_the_lowest_mean_costs(bank: Bank) -> None:
    assert truth.leaders(bank, MADE, 1) == ["sgd"]  # none is known: in the order of the contenders
    evaluate(bank, "sgd", 10 * BEST_LR)
    assert truth.leaders(bank, MADE, 1) == ["sgd"]
    evaluate(bank, "momentum", 2 * BEST_LR)
    assert truth.leaders(bank, MADE, 1) == ["momentum"]
    assert truth.leaders(bank, MADE, 5) == ["momentum", "sgd"]
    assert list(truth.units({"made": ("momentum", "sgd"), "more": ("adam",)}, [1, 2])) == [
        ("more", "adam", 1), ("made", "momentum", 1), ("made", "sgd", 1),
        ("more", "adam", 2), ("made", "momentum", 2), ("made", "sgd", 2),
    ]  # fmt: skip


def start_rates(name: str) -> set[float]:
    contender = parse(name)
    return {contender.rule.settings()["lr"], contender.recommended["lr"]}


def nearest_starts(names: Iterable[str]) -> set[tuple[str, float]]:
    """Return the starting points that are nearest to the best learning rate: several may be equally near."""
    distances = {(name, lr): abs(math.log10(lr / BEST_LR)) for name in names for lr in start_rates(name)}
    return {start for start, value in distances.items() if value == min(distances.values())}


def rate_of(name: str, settings: dict[str, float]) -> float:
    """Return the learning rate of a setting, or the default that it leaves."""
    return float(settings.get("lr", parse(name).rule.settings()["lr"]))


def condensed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    levels = replace(SMALL, sobol=2, near=0), SMALL
    monkeypatch.setattr(truth, "LEVELS", levels)
    for level in levels:
        for contender in MADE.contenders:
            truth.search(bank, MADE, contender, level)
    truth.measure(bank, MADE)
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
            assert best["standard_error"] > 0
            assert training.score(best["cost"]) == pytest.approx(best["test"], rel=1e-4)
            assert item["trainings"] > 20
        by_choice = {name: _chosen_cost(entry, name) for name in known}
        assert by_choice[entry["best"]] == min(by_choice.values())
        assert entry["best_untuned"]["contender"] in training.contenders
        costs = [value["cost"] for value in entry["values"]]
        assert costs == sorted(costs)
        assert len(costs) >= len(known)


def _chosen_cost(entry: Mapping[str, Any], name: str) -> float:
    """The mean cost, over the seeds that choose, of the best setting of a contender."""
    settings = entry["contenders"][name]["best"]["settings"]
    return next(v["cost"] for v in entry["values"] if (v["contender"], v["settings"]) == (name, settings))


def test_the_record_of_a_made_search(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(json.dumps(condensed(bank, monkeypatch), allow_nan=False))
    check_schema(stored, {"made": MADE})
    entry = stored["trainings"]["made"]
    assert {item["level"] for item in entry["contenders"].values()} == {2}
    untuned = entry["best_untuned"]
    start = untuned["contender"], rate_of(untuned["contender"], untuned["settings"])
    assert start in nearest_starts(["sgd", "momentum"])
    (best,) = [item["best"] for name, item in entry["contenders"].items() if name == entry["best"]]
    lr = best["settings"]["lr"]
    assert best["cost"] == pytest.approx(fmean(MADE.cost(score(lr, seed, "test")) for seed in VALUE_SEEDS), abs=1e-5)
    diverged = sum(item["diverged"] for item in entry["contenders"].values())
    assert diverged == sum(lr > 5 for lr, _ in CALLS) > 0


def test_a_better_setting_of_an_earlier_search_stays_the_truth(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    before = condensed(bank, monkeypatch)["trainings"]["made"]
    evaluate(bank, "momentum", BEST_LR)
    bank.result(MADE, "sgd", {"lr": BEST_LR}, TRUTH_SEEDS[-1])  # a single seed is no evaluation
    after = condensed(bank, monkeypatch)["trainings"]["made"]
    assert after["best"] == "momentum"
    assert after["contenders"]["momentum"]["best"]["settings"] == {"lr": BEST_LR}
    assert after["contenders"]["sgd"]["best"] == before["contenders"]["sgd"]["best"]
    assert after["contenders"]["sgd"]["regret"] > before["contenders"]["sgd"]["regret"]
    assert len(after["values"]) == len(before["values"]) + 1


def test_luck_on_the_seeds_that_choose_is_no_truth(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting is lucky on all seeds that choose. It is chosen, and its value is what other seeds say."""
    before = condensed(bank, monkeypatch)["trainings"]["made"]
    for seed in TRUTH_SEEDS:
        bank.add(MADE, "momentum", {"lr": 0.5}, seed, TrainingRun(0.1, 0.1, (0.1,), 1.0))
    truth.measure(bank, MADE)
    after = record.condense(bank.frozen(), {"made": MADE})["trainings"]["made"]
    assert after["best"] == "momentum"
    best = after["contenders"]["momentum"]["best"]
    assert best["settings"] == {"lr": 0.5}
    assert best["cost"] == pytest.approx(fmean(MADE.cost(score(0.5, seed, "test")) for seed in VALUE_SEEDS), abs=1e-5)
    assert after["contenders"]["sgd"]["best"] == before["contenders"]["sgd"]["best"]
    assert after["contenders"]["sgd"]["regret"] < 0  # another contender may be better than the chosen one
    assert regret.best_of({"trainings": {"made": after}}, MADE)[1] == best["cost"]


def test_a_starting_point_that_is_the_best_setting_is_measured(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of one Sobol point finds nothing better than the starting points, which are trained later."""
    monkeypatch.setattr(truth, "LEVELS", (Level(sobol=1, near=0, retrained=1, seeds=1, finalists=1),))
    starts = {"sgd": [{"lr": 0.5}, {"lr": 2 * BEST_LR}], "momentum": [{"lr": BEST_LR}]}
    monkeypatch.setattr(truth, "starting_points", lambda contender: starts[contender])
    bank.add(MADE, "sgd", {"lr": 0.5}, banks.SEARCH_SEED, TrainingRun(0.1, 0.1, (0.1,), 1.0))  # the only finalist
    for contender in MADE.contenders:
        truth.search(bank, MADE, contender, truth.LEVELS[0])
    truth.measure(bank, MADE)
    entry = record.condense(bank.frozen(), {"made": MADE})["trainings"]["made"]
    assert entry["contenders"]["sgd"]["best"]["settings"] == {"lr": 2 * BEST_LR}
    assert entry["best_untuned"]["contender"] == "momentum"


def test_the_best_untuned_setting_is_the_best_of_all_contenders(bank: Bank) -> None:
    with pytest.raises(banks.MissingTrainingError):
        truth.best_untuned(bank.frozen(), MADE)
    contender, settings = truth.best_untuned(bank, MADE)
    costs = {(name, lr): abs(math.log10(lr / BEST_LR)) for name in MADE.contenders for lr in start_rates(name)}
    ranked = sorted(costs, key=lambda key: costs[key])
    assert (contender, rate_of(contender, settings)) in nearest_starts(MADE.contenders)
    trained = {lr for lr, seed in CALLS if seed in TRUTH_SEEDS}
    assert trained == {lr for _, lr in ranked[: truth.UNTUNED[1]]}
    assert truth.best_untuned(bank.frozen(), MADE) == (contender, settings)


def test_an_unfinished_search_is_called_so(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "LEVELS", (SMALL,))
    truth.search(bank, MADE, "sgd", SMALL)
    truth.measure(bank, MADE)
    entry = record.condense(Bank(bank.path, stored=None, trains=False), {"made": MADE})["trainings"]["made"]
    assert entry["contenders"]["momentum"].keys() == {"level", "trainings"}  # of its starting points alone
    assert entry["contenders"]["momentum"]["level"] == 0 < entry["contenders"]["momentum"]["trainings"]
    assert entry["best"] == "sgd"
    assert regret.best_of({"trainings": {"made": entry}}, MADE)[0] == ("sgd",)


def test_the_committed_record() -> None:
    stored = regret.load_record()
    assert stored["trainings"].keys() == TRAININGS.keys()
    check_schema(stored, TRAININGS)


def test_a_truth_that_is_no_longer_complete_is_named() -> None:
    def made(**levels: int) -> dict[str, Any]:
        return {"trainings": {"vae": {"contenders": {name: {"level": level} for name, level in levels.items()}}}}

    earlier = made(adam=1, sgd=2, lion=0)
    assert record.lost_truths(earlier, made(adam=1, sgd=1, lion=0)) == []
    assert record.lost_truths(earlier, made(adam=1, sgd=0, lion=0)) == ["sgd of vae"]
    assert record.lost_truths(earlier, made(adam=1)) == ["sgd of vae"]
    assert record.lost_truths({"trainings": {}}, made(adam=0)) == []


def test_no_truth_is_overwritten_by_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "record.json"
    out.write_text((regret.RECORD).read_text())
    stored = tmp_path / "bank.jsonl.xz"
    monkeypatch.setattr(wild, "STORED", stored)
    monkeypatch.setattr(wild, "condense", lambda bank, trainings: {"trainings": {"vae": {"contenders": {}}}})
    arguments = wild.parser().parse_args(["condense", "--out", str(out), "--bank", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="must still be complete, got none of .*adam of vae"):
        wild.write_record(arguments)
    assert out.read_text() == regret.RECORD.read_text()
    assert not stored.exists()
