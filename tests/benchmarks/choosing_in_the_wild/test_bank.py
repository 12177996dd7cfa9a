"""The bank of trainings: nothing is trained twice, and an edited training is trained again."""

import math
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.choosing_in_the_wild import bank as banks
from benchmarks.choosing_in_the_wild.bank import VALUE_SEEDS, Bank, MissingTrainingError
from benchmarks.choosing_in_the_wild.training import TrainingRun
from tests.benchmarks.choosing_in_the_wild.made import BEST_LR, CALLS, MADE


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
        fmean(math.log(2 * 1.02 * (1 + 0.001 * (seed % 7))) for seed in VALUE_SEEDS), abs=1e-6
    )
    assert mean.count == 20
    assert {seed for _, seed in CALLS} == set(VALUE_SEEDS)
