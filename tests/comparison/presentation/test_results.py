"""Results in Python: representations, the table of trainings, and callbacks for logs."""

import csv
import math
import sys
from pathlib import Path
from statistics import fmean
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Comparison, CsvLog, Progress, TensorBoardLog, TrialTable
from thalweg.comparison.presentation.overview import compared_value, notes_of, table_of
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import STAGES
from thalweg.errors import MissingPackageError, SettingError, StoreError

NAME = "cautious(clip(adamw)):max_norm=0.5"


class Recorder:
    """A callback of the user's."""

    def __init__(self) -> None:
        self.trials: list[TrialRecord] = []
        self.finished: list[Comparison] = []

    def __call__(self, trial: TrialRecord) -> None:
        self.trials.append(trial)

    def finish(self, comparison: Comparison) -> None:
        self.finished.append(comparison)


def leave(trial: TrialRecord) -> None:
    sys.exit(4)


def fail(trial: TrialRecord) -> None:
    raise ValueError("no disk")


class FailAtEnd(Recorder):
    def finish(self, comparison: Comparison) -> None:
        raise RuntimeError("at the end")


class Run(SimpleNamespace):
    comparison: Comparison
    recorder: Recorder
    messages: list[str]
    log: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recorder, messages = Recorder(), []
    inputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    task = thalweg.Task(
        model=lambda: nn.Linear(2, 1),
        loss=thalweg.supervised(nn.functional.mse_loss),
        data=(inputs, inputs.sum(1, True) + 0.1 * inputs[:, :1].square()),
        passes=4,
        name="<b>plane",
        metrics={"mae": lambda model, batch: (model(batch[0]) - batch[1]).abs().mean()},
    )
    log = tmp_path_factory.mktemp("logs") / "new" / "log.csv"

    def watch(progress: Progress) -> None:
        messages.extend(filter(None, [progress.message]))

    comparison = thalweg.compare(
        task,
        ["sgd", "adam", NAME],
        budget="18trials",
        workers=1,
        watch=watch,
        callbacks=[leave, fail, recorder, CsvLog(log), FailAtEnd()],
    )
    return Run(comparison=comparison, recorder=recorder, messages=messages, log=log)


def test_callbacks_see_each_training_and_the_end_and_their_errors_are_shown_once(run: Run) -> None:
    seen = {trial.key for trial in run.recorder.trials}
    assert seen == {trial.key for trial in run.comparison.trials()}
    assert len(run.recorder.trials) == len(seen) > 10
    assert run.recorder.finished == [run.comparison]
    line = fail.__code__.co_firstlineno + 1
    assert run.messages == [
        f"callback leave failed, got SystemExit: 4 (at {__file__}:{leave.__code__.co_firstlineno + 1}). "
        "The comparison goes on.",
        f"callback fail failed, got ValueError: no disk (at {__file__}:{line}). The comparison goes on.",
        f"callback FailAtEnd failed, got RuntimeError: at the end (at {__file__}:"
        f"{FailAtEnd.finish.__code__.co_firstlineno + 1}). The comparison goes on.",
    ]


def test_the_csv_file_has_a_line_for_each_training(run: Run) -> None:
    with run.log.open() as file:
        rows = list(csv.DictReader(file))
    trials = run.recorder.trials
    assert [(row["contender"], row["stage"], int(row["seed"])) for row in rows] == [
        (trial.contender, trial.stage, trial.seed) for trial in trials
    ]
    losses = [str(trial.result.test) if math.isfinite(trial.result.test) else "" for trial in trials]
    assert [row["test"] for row in rows] == losses
    assert rows[0]["settings"] == " ".join(f"{name}={value}" for name, value in trials[0].settings.items())
    assert [row["metrics"] for row in rows] == [f"mae={trial.result.metrics['mae']}" for trial in trials]


def test_a_callback_must_be_a_function_and_a_log_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a callback must be a function of a TrialRecord, got str"):
        thalweg.compare("quadratic", ["sgd"], budget="1trial", quiet=True, callbacks=["log.csv"])
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"log must be writable"):
        CsvLog(tmp_path / "file" / "log.csv")


def test_tensorboard_gets_losses_settings_curves_and_the_verdict(run: Run) -> None:
    calls: list[tuple[Any, ...]] = []
    writer = SimpleNamespace(
        add_scalar=lambda *call: calls.append(call), add_text=lambda *call: calls.append(call), flush=lambda: None
    )
    log = TensorBoardLog(writer)
    trials = [trial for trial in run.comparison.trials() if trial.contender == "sgd"]
    for trial in trials:
        log(trial)
    log.finish(run.comparison)
    assert [call[1:] for call in calls if call[0] == "sgd/search/test"] == [
        (trial.result.test, number)
        for number, trial in enumerate(trials)
        if trial.stage == "search" and math.isfinite(trial.result.test)
    ]
    assert [call[1] for call in calls if call[0] == "sgd/search/mae"] == [
        trial.result.metrics["mae"]
        for trial in trials
        if trial.stage == "search" and math.isfinite(trial.result.metrics["mae"])
    ]
    assert any(call[0] == "sgd/search/mae" for call in calls)
    rates = [trial.settings["lr"] for trial in trials if "lr" in trial.settings]
    assert [call[1] for call in calls if call[0] == "sgd/settings/lr"] == rates
    last = next(trial for trial in reversed(trials) if len(trial.result.evaluations) > 1)
    curve = [call[1:] for call in calls if call[0] == f"sgd/{last.stage}/seed {last.seed}"]
    points = [(evaluation.validation, evaluation.step) for evaluation in last.result.evaluations]
    assert curve[-len(points) :] == points
    assert calls[-1] == ("verdict", f"{run.comparison.verdict.headline} {run.comparison.verdict.text}")


def test_tensorboard_makes_a_writer_of_a_folder_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder: ("writer", folder)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    assert TensorBoardLog("logs").writer == ("writer", "logs")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match="needs the package tensorboard, which is not installed"):
        TensorBoardLog("logs")


def test_trainings_are_a_table_with_the_same_keys_in_each_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run.comparison.trials()
    assert isinstance(trials, list)
    rows = trials.to_rows()
    assert len({tuple(row) for row in rows}) == 1
    stages = [STAGES.index(row["stage"]) for row in rows]
    assert stages == sorted(stages)
    first = trials[0]
    assert rows[0]["settings.lr"] == first.settings["lr"]
    assert rows[0]["test"] == first.result.test
    assert rows[0]["metrics.mae"] == first.result.metrics["mae"] > 0
    assert all(row["settings.lr"] is None for row in rows if row["stage"] == "start")
    text = repr(trials)
    assert text.endswith(f"… and {len(trials) - 20} more; to_rows() has all")
    assert max(map(len, text.splitlines())) <= 120
    assert "<td" in trials._repr_html_()
    assert repr(TrialTable()) == "trials"
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert trials.to_pandas() == ("frame", rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="needs pandas, which is not installed"):
        trials.to_pandas()


def test_the_value_and_the_difference_come_from_the_same_seeds_and_rows_are_in_order(run: Run) -> None:
    comparison = run.comparison
    columns = {column.heading: list(column.cells) for column in table_of(comparison).columns}
    leader = comparison.contenders[0]
    rows = zip(columns["contender"], columns["value"], columns["worse by"], comparison.contenders, strict=True)
    order = []
    for name, value, worse_by, summary in rows:
        assert name == summary.name
        assert {own.seed for own, _ in summary.beside_leader} == {beside.seed for _, beside in summary.beside_leader}
        own_mean, leaders_mean = (
            math.exp(fmean(math.log(trial.result.test) for trial in trials))
            for trials in zip(*summary.beside_leader, strict=True)
        )
        assert value == f"{own_mean:.4g}"
        share = own_mean / leaders_mean - 1
        text = f"{1 + share:.3g}x" if share >= 9 else f"{100 * abs(share):.1f} %{' better' if share < 0 else ''}"
        assert worse_by == ("–" if summary is leader else text)
        order.append((-len(summary.beside_leader), share))
    assert order[1:] == sorted(order[1:])
    assert "over the same seeds" in notes_of(comparison)[0]


def test_the_leader_has_a_value_for_the_seeds_of_each_stage_that_compares() -> None:
    """A contender that the finals left out is compared on the search's seed, where the leader has another value."""
    comparison = thalweg.compare("quadratic", ["gd", "adam"], budget="8trials", workers=1)
    leader, rival = comparison.contenders
    ((own, beside),) = rival.beside_leader
    assert own.stage == "search"
    assert leader.beside_leader[0][0].stage == "final"
    assert beside.result.train != leader.beside_leader[0][0].result.train
    assert rival.worse_by == pytest.approx(own.result.train / beside.result.train - 1)
    said = f"On the seed of the search, beside {rival.name}, {leader.name} reaches {beside.result.train:.4g}."
    assert said in notes_of(comparison)[0]


def test_objects_are_described_in_text_and_in_escaped_html(run: Run) -> None:
    comparison = run.comparison
    text = repr(comparison)
    assert text.startswith(
        f"Comparison of 3 contenders on <b>plane: test loss, {len(comparison.trials())} trainings\n"
        f"{comparison.verdict.headline}\n"
    )
    assert NAME in text
    assert comparison.code in text
    page = comparison._repr_html_()
    assert "<table>" in page
    assert "<b>plane" not in page
    assert "&lt;b&gt;plane" in page
    assert comparison.verdict.headline in page
    verdict = repr(comparison.verdict)
    assert verdict.startswith(f"Verdict ({comparison.verdict.settled}): {comparison.verdict.headline}\n")
    plan = repr(comparison.plan)
    assert plan.startswith(f"ComparisonPlan of sgd, adam, {NAME}: ")
    assert plan.endswith("1 process on cpu, seed 0")
    summary = comparison.contenders[0]
    assert repr(summary).startswith(f"Summary of {summary.name}: {summary.value.mean:.4g} (")
    hostile = thalweg.Task(model=lambda: None, loss=lambda model, batch: None, name="<img onerror=x>")
    assert "<img" not in hostile._repr_html_()
    assert "&lt;img onerror=x&gt;" in hostile._repr_html_()


def test_the_table_of_a_single_contender_has_the_value_of_the_verdict() -> None:
    comparison = thalweg.compare("linear-regression", ["adam"], budget="20trials", workers=1)
    (summary,) = comparison.contenders
    assert summary.value_stage == "value"
    assert compared_value(summary, comparison.plan) == summary.value
    (row,) = comparison.to_json()["contenders"]
    assert row["compared_value"] == row["value"]
