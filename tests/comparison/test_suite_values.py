"""Values of the tasks' own arguments in a suite: for all tasks that declare them, and for one task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.cli.invocation import invoke
from thalweg.errors import SettingError
from thalweg.tasks import TrainingFunction

QUICK: dict[str, Any] = {"budget": "3trials", "workers": 1, "quiet": True}
FILE = """
import thalweg, torch

def train(make_optimizer, report, steps=thalweg.choice(2, 4, 8)):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
    report(1 + loss.item())

def second(make_optimizer, report, steps=thalweg.choice(2, 4, 8)):
    train(make_optimizer, report, steps)
"""


def bowl(name: str, *, tunes: bool = True) -> TrainingFunction:
    def train(make_optimizer, report, steps=thalweg.choice(2, 4, 8)):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(steps):
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            optimizer.step()
        report(1 + loss.item())

    def fixed(make_optimizer, report):
        train(make_optimizer, report, 2)

    return TrainingFunction(train=train if tunes else fixed, name=name, source=name)


def steps_of(comparison: thalweg.Comparison) -> Any:
    (contender,) = comparison.record.contenders
    return contender.start.get("steps")


def searched(comparison: thalweg.Comparison) -> list[str]:
    return comparison.record.contenders[0].searched


def test_a_value_is_for_all_tasks_that_declare_it_and_that_of_one_task_decides_there() -> None:
    tasks = [bowl("first"), bowl("second"), bowl("plain", tunes=False)]
    suite = thalweg.compare_suite(tasks, ["sgd"], fixed={"second:steps": 8, "steps": 4}, **QUICK)
    assert not suite.failures
    first, second, plain = suite.comparisons.values()
    assert (steps_of(first), steps_of(second), steps_of(plain)) == (4, 8, None)
    assert "steps" not in searched(first) + searched(second)


def test_a_value_of_one_task_leaves_the_others_to_be_tuned() -> None:
    suite = thalweg.compare_suite([bowl("first"), bowl("second")], ["sgd"], fixed={"second:steps": "2"}, **QUICK)
    assert "steps" in searched(suite.comparisons["first"])
    assert steps_of(suite.comparisons["second"]) == 2


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"third:steps": 2}, r"'third:steps' must begin with the name of a task of the suite.* first"),
        ({"width": 2}, r"'width' must be an argument that a task of the suite tunes, but they tune steps"),
        ({"plain:steps": 2}, r"plain: 'steps' must be an argument that the task tunes, but it tunes none"),
        ({"first:steps": 3}, r"first: steps must be one of 2, 4, 8, got 3"),
        ({"steps": "many"}, r"first: steps must be one of 2, 4, 8, got 'many'"),
    ],
)
def test_a_wrong_value_ends_the_suite_before_any_training(fixed: dict[str, Any], message: str) -> None:
    tasks = [bowl("first"), bowl("second"), bowl("plain", tunes=False)]
    events: list[Any] = []
    with pytest.raises(SettingError, match=message):
        thalweg.compare_suite(tasks, ["sgd"], fixed=fixed, watch=events.append, **QUICK)
    assert not events


def test_the_command_takes_values_and_starts_for_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE)
    words = ["--with", "sgd", "--budget", "3trials", "--workers", "1", "--start", "sgd:lr=0.0123"]
    invoke("compare", "mine.py:train,mine.py:second", "--suite", *words, "--set", "mine.py:second:steps=8")
    suite = thalweg.comparison.open_suite(Path("runs") / "suite")
    first, second = suite.comparisons.values()
    assert "steps" in searched(first)
    assert steps_of(second) == 8
    for comparison in (first, second):
        assert 0.0123 in [trial.settings.get("lr") for trial in comparison.trainings]
