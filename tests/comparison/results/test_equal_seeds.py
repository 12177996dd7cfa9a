"""Seeds that change nothing: what counts as evidence, and what a comparison then says."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.results.functions.equal_seeds import find_equal_seeds
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.report.certainty import how_sure
from thalweg.tasks.catalogue import load


def trainings(lr: float, *values: float, status: str = "ok", curve: bool = False) -> list[TrialRecord]:
    """Return trainings of one setting with these values, each from a seed of its own; curves differ by the seed."""
    return [
        TrialRecord(
            "sgd",
            "race",
            0,
            0,
            seed,
            {"lr": lr},
            TrainingResult(
                status,
                validation=value,
                test=value,
                optimizers=[OptimizerUse(line="train.py:7")],
                evaluations=[Evaluation(1, 0.0, seed / 10)] if curve else [],
            ),
        )
        for seed, value in enumerate(values)
    ]


def test_equal_values_of_several_settings_are_found_with_the_line_of_the_function() -> None:
    equal = find_equal_seeds([*trainings(0.1, 0.3, 0.3), *trainings(0.2, 0.4, 0.4, 0.4)])
    assert equal is not None
    assert (equal.settings, equal.seeds, equal.line) == (2, 3, "train.py:7")


@pytest.mark.parametrize(
    "trials",
    [
        [*trainings(0.1, 0.3, 0.3, 0.3), *trainings(0.2, 0.4, 0.41)],  # a setting whose seeds differ
        trainings(0.1, 0.3, 0.3),  # a single repetition may be chance
        trainings(0.1, 1.0, 1.0, 1.0),  # an accuracy at its bound
        trainings(0.1, 0.0, 0.0, 0.0),
        trainings(0.1, 100.0, 100.0, 100.0),
        [*trainings(0.1, 0.3, 0.3, 0.3), *trainings(0.2, 0.3, 0.3, 0.3)],  # a bound that settings share
        trainings(0.1, 0.3, 0.3, 0.3, curve=True),  # equal at the end, different on the way
        trainings(0.1, 0.3, 0.3, 0.3, status="diverged"),
        [*trainings(0.1, 0.3), *trainings(0.2, 0.4), *trainings(0.3, 0.5)],  # one seed each
    ],
)
def test_what_seeds_may_share_is_no_evidence(trials: list[TrialRecord]) -> None:
    assert find_equal_seeds(trials) is None


def train_seeded(make_optimizer, report) -> None:
    """A training function that seeds itself."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(32, 3)
    targets = inputs.sum(1, keepdim=True) + torch.randn(32, 1)
    optimizer = make_optimizer(model)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        report(loss)


def test_a_function_that_seeds_itself_is_cautioned_and_nothing_is_settled(tmp_path: Path) -> None:
    comparison = thalweg.compare(train_seeded, ["sgd", "adam"], budget="80trials", workers=1, quiet=True)
    assert comparison.findings.race.settled in ("best", "within")  # what the test of the race believes
    verdict = comparison.verdict
    assert verdict.settled == "open"
    assert sorted(verdict.tied) == ["adam", "sgd"]
    assert verdict.within == [verdict.best]
    assert verdict.headline == f"{verdict.recommended} for one seed only: not settled."
    assert "the same value from all" in verdict.text
    assert "interval" not in verdict.text
    assert "hold for this seed only" in verdict.text
    caution = next(text for text in comparison.cautions if text.startswith("The seeds change nothing: "))
    line = next(number for number, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "= make_op" in text)
    assert f"the training function ({__file__}:{line} makes its optimizer) seeds itself" in caution
    assert "torch.initial_seed()" in caution
    assert how_sure(comparison) == "Not settled: all seeds give the same values, so they are the evidence of one seed."
    assert comparison.half_sample_check == []
    result = json.loads(json.dumps(comparison.to_json()))
    assert result["verdict"]["settled"] == "open"
    assert all(contender["low"] is None and contender["high"] is None for contender in result["contenders"])
    page = comparison.report(tmp_path / "report.html").read_text()
    assert "The seeds change nothing" in page
    assert "Sure" not in page.split("<nav")[0]


@pytest.mark.parametrize("name", ["linear-regression", "logistic-regression", "digits", "quadratic", "rosenbrock"])
def test_models_of_built_in_tasks_differ_by_the_seed(name: str) -> None:
    first, second = (load(name).make_model(seed).parameters() for seed in (1, 2))
    assert any(not torch.equal(*pair) for pair in zip(first, second, strict=True))
