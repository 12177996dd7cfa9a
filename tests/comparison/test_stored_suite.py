"""A suite is opened from the stores of its tasks: it is the one that its run returned."""

import sqlite3
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from tests.cli.invocation import invoke
from tests.cli.invocation import thalweg as command
from thalweg.comparison import Store, open_suite
from thalweg.comparison.results.storage.rows import UNCHECKED
from thalweg.comparison.suite import is_suite
from thalweg.errors import StoreError
from thalweg.report.live_sources import SuiteSource
from thalweg.tasks import Task, TrainingFunction

QUICK = {"budget": "4trials", "workers": 1, "quiet": True}
NAMES = ["sgd", "adam"]


def bowl(name: str) -> TrainingFunction:
    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(4):
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            optimizer.step()
        report(1.0 + loss.item() + 0.01 * torch.rand(()).item())

    return TrainingFunction(train=train, name=name, source=name)


def broken(model, batch):
    raise ValueError("the disk is gone")


def run(folder: Path, tasks: list[TrainingFunction | Task], **options) -> thalweg.Suite:
    return thalweg.compare_suite(tasks, NAMES, store=folder, **{**QUICK, **options})


def test_it_has_the_tables_the_sentences_and_the_page_of_the_run(tmp_path: Path) -> None:
    suite = run(tmp_path, [bowl("zebra"), bowl("path/to/mine.py:apple"), bowl("middle")])
    opened = open_suite(tmp_path)
    assert list(opened.comparisons) == ["zebra", "path/to/mine.py:apple", "middle"]  # neither by name nor by folder
    assert opened.is_finished
    assert opened.to_json() == suite.to_json()
    assert repr(opened) == repr(suite)
    page = suite.report(tmp_path).read_text()
    assert opened.report(tmp_path).read_text() == page
    assert "&#39;tasks&#39;" not in page
    assert "suite</dt>" not in page  # the place in the suite is no part of the environment


def test_the_command_prints_the_tables_and_writes_the_page(tmp_path: Path) -> None:
    run(tmp_path, [bowl("second"), bowl("first")])
    output = invoke("report", str(tmp_path)).output
    lines = output.splitlines()
    assert lines[0] == "Worse than the best contender of the task by (~: not shown to be worse)"
    rows = [line.split()[0] for line in lines if line.startswith(("second", "first"))]
    assert rows == ["second", "first"]
    assert "# second" in lines
    assert f"Report: {tmp_path / 'suite.html'}" in output.replace("\n", "")
    assert (tmp_path / "suite.html").exists()
    assert (tmp_path / "first" / "report.html").exists()
    other = tmp_path / "other"
    assert '"headline"' in invoke("report", str(tmp_path), "--to", str(other), "--json").output
    assert (other / "suite.html").exists()


def test_a_task_without_a_store_is_pending_and_one_without_a_training_has_failed(tmp_path: Path) -> None:
    run(tmp_path, [bowl("good"), bowl("gone"), Task(model=lambda: nn.Linear(1, 1), loss=broken, name="bad")])
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    (tmp_path / "gone").rmdir()
    opened = open_suite(tmp_path)
    assert list(opened.comparisons) == ["good"]
    assert opened.pending == ["gone"]
    assert list(opened.failures) == ["bad"]
    result = command("report", str(tmp_path))
    assert result.returncode == 2
    assert "gone has no result yet." in result.stdout
    assert "bad failed:" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_stores_that_no_suite_made_are_shown_too_and_a_difference_is_said(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        store = tmp_path / name / "store.sqlite"
        thalweg.compare(bowl(name), NAMES, store=store, seed=seed, **QUICK)
    opened = open_suite(tmp_path)
    assert set(opened.comparisons) == {"one", "two", "three"}
    sentence = "The tasks were not compared alike: the newest comparison on three has another budget or seed."
    assert sentence in opened.cautions
    for file in (tmp_path / "three").iterdir():
        file.unlink()
    assert sentence[:30] not in " ".join(open_suite(tmp_path).cautions)


def test_a_place_in_a_suite_that_somebody_wrote_does_no_harm(tmp_path: Path) -> None:
    run(tmp_path, [bowl("good")])
    path = tmp_path / "good" / "store.sqlite"
    for place in ("5", '{"task": "../../elsewhere", "tasks": ["../../elsewhere"]}', '{"task": 1, "tasks": [2]}'):
        with sqlite3.connect(path) as connection:
            connection.execute(
                "UPDATE comparisons SET environment = ?, checksum = ?", (f'{{"suite": {place}}}', UNCHECKED)
            )
        connection.close()
        assert list(open_suite(tmp_path).comparisons) == ["good"]


def test_a_folder_without_stores_is_no_suite(tmp_path: Path) -> None:
    assert not is_suite(tmp_path)
    assert not is_suite(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="must hold a folder with a store for each task, got none"):
        open_suite(tmp_path)
    Store(tmp_path / "task" / "store.sqlite").close()
    assert is_suite(tmp_path)
    with pytest.raises(StoreError, match="must have a stored training, and none has") as error:
        open_suite(tmp_path)
    assert "Run the same compare command again" in str(error.value)


def test_live_pages_of_stores_show_what_is_stored(tmp_path: Path) -> None:
    run(tmp_path, [bowl("first"), bowl("second")])
    stores = {task: tmp_path / task / "store.sqlite" for task in ("first", "second")}
    source = SuiteSource(stores, watches=tmp_path)
    source.begin()
    try:
        snapshot = source.snapshot(source.pages[0])
        assert snapshot is not None
        assert "second" in snapshot.render(None)
        assert source.snapshot("first") is not None
        assert source.activity() == (f"This page follows {tmp_path}.", None)
    finally:
        source.close()
    not_begun = SuiteSource(stores)
    not_begun.begin()
    assert not_begun.snapshot(not_begun.pages[0]) is None
    not_begun.close()
