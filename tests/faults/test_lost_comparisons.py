"""Comparisons in which every training is lost: no value is no success, on the command line, in JSON and in suites."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from thalweg.cli.main import cli
from thalweg.comparison import Comparison, Store
from thalweg.comparison.failures import error_without_values
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.result import TrainingResult

TASK = """
import torch

def training(value):
    def train(make_optimizer, report):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(3):
            optimizer.zero_grad()
            loss = value * weight.square().sum()
            loss.backward()
            optimizer.step()
            report(loss.item())
    return train

lost, sound = training(float("nan")), training(1.0)

class Wild(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("nan"))
"""
PART = "a result"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return path


def command(*words: object, out: Path) -> Result:
    contenders = [] if "--with" in words else ["--with", "sgd,adam"]
    options = [*contenders, "--budget", "4trials", "--workers", "1", "--out", out]
    return CliRunner().invoke(cli, list(map(str, ["compare", *options, *words])))


def test_a_comparison_without_any_value_ends_with_code_2(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(f"{task}:lost", out=out)
    assert done.exit_code == 2
    assert "No contender is recommended." in done.stdout
    assert "error: A result could not be made: a contender must have a value, and none has; of " in done.stderr
    again = command(f"{task}:lost", "--json", out=out)
    missing = json.loads(again.stdout)["missing_parts"]
    assert (again.exit_code, [part["name"] for part in missing]) == (2, [PART])
    assert missing[0]["error"].endswith("diverged. Find the cause with thalweg doctor.")
    shown = CliRunner().invoke(cli, ["report", str(out)])
    assert shown.exit_code == 2
    store = Store(out, write=False)
    record = store.find()
    assert record is not None
    assert [part.name for part in Comparison(store, record).parts.missing] == [PART]  # without a look at its verdict
    assert Comparison(store, replace(record, finished=None)).parts.missing == []  # a value may still come


def test_one_contender_with_a_value_is_a_result(task: Path, tmp_path: Path) -> None:
    done = command(f"{task}:sound", "--with", f"{task}:Wild,sgd", "--json", out=tmp_path / "out")
    assert (done.exit_code, json.loads(done.stdout)["missing_parts"]) == (0, [])


def test_a_target_that_no_training_reaches_is_no_result(tmp_path: Path) -> None:
    done = command("linear-regression", "--with", "gd,adam", "--target", "0.0763", "--json", out=tmp_path / "out")
    missing = json.loads(done.stdout)["missing_parts"]
    assert (done.exit_code, [part["name"] for part in missing]) == (2, [PART])
    assert "missed the target" in missing[0]["error"]
    assert missing[0]["error"].endswith("Set another target, or train longer.")


def test_a_suite_with_a_task_without_any_value_ends_with_code_2(task: Path, tmp_path: Path) -> None:
    done = command("--suite", f"{task}:lost,{task}:sound", "--json", out=tmp_path / "out")
    tasks = json.loads(done.stdout)["tasks"]
    assert done.exit_code == 2
    assert {name: [part["name"] for part in result["missing_parts"]] for name, result in tasks.items()} == {
        f"{task}:lost": [PART],
        f"{task}:sound": [],
    }
    assert f"error: {task}:lost: A result could not be made: " in done.stderr
    assert command("--suite", f"{task}:sound", out=tmp_path / "out").exit_code == 0


def test_the_error_counts_how_trainings_ended() -> None:
    def trials(**counts: int) -> list[TrialRecord]:
        return [
            TrialRecord("sgd", "search", 0, number, 1, {}, TrainingResult(status, 0.0, 0.0, 0.0))  # type: ignore[arg-type]
            for status, count in counts.items()
            for number in range(count)
        ]

    lost = str(error_without_values(trials(failed=2, diverged=3), None))
    assert lost.endswith("of 5 trainings, 3 diverged and 2 failed. Find the cause with thalweg doctor.")
    unended = str(error_without_values(trials(stopped=2), None))
    assert unended.endswith("2 had not ended. Give a larger budget, or shorter trainings.")
