"""The judgement of verdicts on the examples, from values that are known by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tuning import verdicts
from thalweg.comparison.contenders.parsing import parse
from thalweg.tasks import TrainingFunction

EXAMPLES = Path(__file__).parents[2] / "examples"
BEST = np.log(np.full(20, 2.0))
SPREAD = np.tile([-0.1, 0.1], 10)  # a standard error of 0.0229, of which t is 1.729


@pytest.mark.parametrize(
    ("factor", "spread", "shown"),
    [
        (1.0, 0.0, False),
        (1.029, 0.0, False),
        (1.031, 0.0, True),
        (1.06, 1.0, False),  # 2.9 % more than the margin, 4.0 % are needed
        (1.08, 1.0, True),
    ],
)
def test_a_verdict_is_not_signed_if_its_setting_is_shown_to_be_worse(factor: float, spread: float, shown: bool) -> None:
    judged = verdicts.signed(BEST + math.log(factor) + spread * SPREAD, BEST, {})
    assert judged["regret"] == pytest.approx(factor - 1)
    assert (judged["shown_worse"], judged["signed"]) == (shown, not shown)


def test_a_verdict_is_not_signed_if_a_contender_that_it_calls_worse_is_better() -> None:
    claims = {"adam": BEST - 0.001, "sgd": BEST + 0.5, "lion": np.full(20, math.inf)}
    judged = verdicts.signed(BEST, BEST, claims)
    assert (judged["false_claims"], judged["signed"]) == (["adam"], False)
    assert verdicts.signed(BEST, BEST, {"sgd": BEST + 0.5})["signed"]


@pytest.mark.parametrize(
    ("low", "high", "covered"),
    [
        (1.9, 2.1, (True, True)),
        (2.05, 2.1, (False, True)),  # 3.7 % from center to mean; half of the interval 1.2 %, 1.96 errors 4.5 %
        (2.09, 2.14, (False, False)),  # 5.6 %
        (None, None, (None, None)),
    ],
)
def test_an_interval_is_judged_with_the_error_of_the_mean(
    low: float | None, high: float | None, covered: tuple[bool | None, bool | None]
) -> None:
    assert tuple(verdicts.coverage(low, high, BEST + SPREAD).values()) == covered


def test_every_example_says_how_it_is_compared() -> None:
    for example in verdicts.EXAMPLES:
        assert verdicts.COMMAND.search((EXAMPLES / f"{example}.py").read_text()), example
    target, names, budget = verdicts.command_of("own_training")
    assert (target.name, names, budget) == ("own_training:train", ["sgd", "adam"], "30s")


def valley(make_optimizer, report) -> None:  # type: ignore[no-untyped-def]
    """The values follow from the learning rate: validation prefers 0.1, the test 0.001."""
    model = nn.Linear(1, 1)
    lr = make_optimizer(model).param_groups[0]["lr"]
    value = 1 + abs(math.log10(lr / 0.1)) + 0.001 * torch.rand(1).item()
    report(math.nan if lr > 5 else value, test=1 + abs(math.log10(lr / 0.001)))


def test_the_experiment_searches_exhaustively_and_measures_from_fresh_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = verdicts.Experiment(TrainingFunction(train=valley))
    sgd = parse("sgd")
    best = experiment.best(sgd)
    drawn = sorted(
        {json.loads(settings)["lr"] for _, settings, number, _ in experiment._values if number == 0},
        key=lambda lr: abs(math.log10(lr / 0.1)),
    )
    assert len(drawn) > verdicts.SETTINGS
    assert best["lr"] == drawn[0]
    numbers = {number for _, settings, number, _ in experiment._values if json.loads(settings)["lr"] == best["lr"]}
    assert numbers == set(range(25))
    values = experiment.values(sgd, best, range(25, 45), "test")
    assert np.exp(values.mean()) == pytest.approx(1 + abs(math.log10(best["lr"] / 0.001)), rel=1e-3)
    assert np.isinf(experiment.values(sgd, {**best, "lr": 9.0}, [0], "test")).all()


def test_the_committed_record_is_of_the_examples_as_they_are() -> None:
    record = json.loads(verdicts.RECORD.read_text())
    assert record["examples"].keys() == set(verdicts.EXAMPLES)
    for name, example in record["examples"].items():
        _, names, budget = verdicts.command_of(name)
        assert (list(example["contenders"]), example["budget"]) == (names, budget)
        assert [verdict["seed"] for verdict in example["verdicts"]] == list(verdicts.SEEDS)
        for verdict in example["verdicts"]:
            assert verdict["signed"] == (not verdict["shown_worse"] and not verdict["false_claims"])
