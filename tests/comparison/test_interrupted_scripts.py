"""Ctrl-C in a script that calls ``compare``: the best answer so far, no traceback, no process that is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from thalweg import errors
from thalweg.comparison import Progress
from thalweg.comparison.presentation.progress_display import shows_progress
from thalweg.errors import ComparisonInterrupted, DiagnosisInterrupted, ResultInterrupted

LIMIT_S = 120.0  # for whatever is waited for: generous, since it never passes if all is well
SCRIPT = """
import sys
import torch
import thalweg
from torch.optim import lr_scheduler

SCHEDULERS = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 10, 0.5),
    "onecycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=30),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=3),
}


def train(make_optimizer, report):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight])
    scheduler = SCHEDULERS[sys.argv[2]](optimizer)
    for step in range(30):
        optimizer.zero_grad()
        loss = (weight * torch.arange(1.0, 4.0)).square().sum() + 0.1
        loss.backward()
        optimizer.step()
        scheduler.step(*([loss.item()] if sys.argv[2] == "plateau" else []))
        if step % 10 == 9:
            report(loss.item())
    with open("done", "a") as file:
        file.write(".")


if __name__ == "__main__":
    thalweg.compare(train, ["adam", "sgd"], budget="20m", workers=int(sys.argv[1]), store=sys.argv[3] or None)
"""


class Script:
    """A running script in a session of its own, and the processes that belong to it."""

    def __init__(self, folder: Path, workers: int, scheduler: str, store: str = "") -> None:
        (folder / "mine.py").write_text(SCRIPT)
        self.done = folder / "done"
        command = [sys.executable, "mine.py", str(workers), scheduler, store]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)

    def wait_for_trainings(self, count: int) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not (self.done.exists() and self.done.stat().st_size >= count):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline_s, "no training ends"
            time.sleep(0.01)

    def interrupt(self) -> None:
        """Send what a terminal sends on Ctrl-C: a signal to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        _, text = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, text

    def wait_for_no_process(self) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while left := processes_of(self.process.pid):
            assert time.monotonic() < deadline_s, f"left: {left}"
            time.sleep(0.01)


def processes_of(session: int) -> list[str]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(numbers[2]) == session and state != "Z":
            found.append(path.parent.name)
    return found


@pytest.fixture(autouse=True)
def hook() -> Iterator[None]:
    """Leave the hook of this process as it was."""
    before = sys.excepthook
    yield
    sys.excepthook = before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed in /proc")
@pytest.mark.parametrize(
    ("workers", "scheduler", "store"), [(1, "step", "store.sqlite"), (2, "plateau", ""), (1, "onecycle", "")]
)
def test_ctrl_c_prints_the_best_answer_so_far(tmp_path: Path, workers: int, scheduler: str, store: str) -> None:
    script = Script(tmp_path, workers, scheduler, store)
    script.wait_for_trainings(12)
    script.interrupt()
    code, text = script.end()
    assert code == 130
    assert "Traceback" not in text
    assert "best so far" in text
    assert "optimizer = thalweg.optim." in text  # the line to paste
    again = "Run the same call again to resume it." if store else "pass store= to make the same call resume it."
    assert text.rstrip().endswith(again)
    script.wait_for_no_process()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed in /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_ctrl_c_leaves_no_process_and_no_traceback_of_ours(tmp_path: Path, workers: int) -> None:
    script = Script(tmp_path, workers, "step")
    script.wait_for_trainings(6)
    script.interrupt()
    script.interrupt()
    code, text = script.end()
    assert (code in (130, -signal.SIGINT), "Traceback" in text) == (True, False), f"exit code {code}: {text}"
    script.wait_for_no_process()


def interrupt_at(calls: int) -> Any:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) >= calls:
            raise KeyboardInterrupt

    return watch


def test_the_result_so_far_is_in_the_exception_and_says_how_sure_it_is() -> None:
    with pytest.raises(ComparisonInterrupted) as caught:
        thalweg.compare("quadratic", ["gd", "adam"], budget="20trials", workers=1, watch=interrupt_at(12))
    result = caught.value.result
    assert result.record.finished is None
    text = caught.value.text()
    assert repr(result) in text
    assert result.verdict.text in text
    assert text.splitlines() == caught.value._render_traceback_()


def test_an_interrupt_in_the_ranking_of_a_long_budget_answers_from_its_studies() -> None:
    """No search for the setting to use has begun; its design knew of no training, and no leader was found."""
    store = thalweg.comparison.Store(None)
    with pytest.raises(ComparisonInterrupted) as caught:
        thalweg.compare(bowl, ["sgd", "adam"], budget="20m", workers=1, store=store, watch=interrupt_when_done(8))
    record = store.find()
    assert record is not None
    assert record.plan.ranking is not None
    result = caught.value.result
    assert {trial.stage for trial in result.trainings} == {"search"}
    best = min(result.trainings, key=lambda trial: trial.result.validation)
    assert result.verdict.recommended == best.contender
    assert result.contenders[0].settings["lr"] == best.settings["lr"]
    assert not result.to_json()["missing_parts"]


def bowl(make_optimizer: Any, report: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight])
    for _ in range(5):
        optimizer.zero_grad()
        loss = weight.square().sum() + 0.1
        loss.backward()
        optimizer.step()
    report(loss.item())


def interrupt_when_done(count: int) -> Any:
    def watch(progress: Progress) -> None:
        if progress.done >= count:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("store", [None, "somewhere"])
def test_an_interrupt_that_nobody_answered_becomes_ours(store: str | None) -> None:
    @shows_progress
    def load(*, store: str | None, watch: Any = None, quiet: bool = False) -> None:
        raise KeyboardInterrupt

    with pytest.raises(ComparisonInterrupted, match="no result is known yet") as caught:
        load(store=store, quiet=True)
    assert caught.value.result is None
    assert ("pass store=" in str(caught.value)) == (store is None)


def test_a_suite_keeps_its_results_if_the_interrupt_comes_between_its_tasks() -> None:
    def watch(event: thalweg.comparison.TaskProgress) -> None:
        if event.result is not None:
            raise KeyboardInterrupt

    tasks = ["quadratic", "linear-regression"]
    with pytest.raises(ComparisonInterrupted) as caught:
        thalweg.compare_suite(tasks, ["gd", "adam"], budget="2trials", workers=1, watch=watch)
    assert list(caught.value.result.comparisons) == ["quadratic"]
    assert caught.value.result.pending == ["linear-regression"]


class Unshowable:
    def __repr__(self) -> str:
        raise ValueError("a damaged store")


def uncaught(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """Pass an error to the hook of a script; return the exit code and the errors that others were left to show."""
    left: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: left.append(arguments[1]))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ComparisonInterrupted()
    hook = sys.excepthook
    ComparisonInterrupted()
    assert sys.excepthook == hook  # one hook, however many interrupts
    try:
        hook(type(error), error, error.__traceback__)
    except SystemExit as ending:
        return ending.code, left
    return None, left


def test_an_uncaught_interrupt_is_shown_and_other_errors_are_left_to_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, left = uncaught(ComparisonInterrupted("the answer"), monkeypatch)
    assert (code, left) == (errors.INTERRUPTED_CODE, [])
    assert capsys.readouterr().err.startswith("'the answer'\n\nInterrupted: the comparison was interrupted; its result")
    code, _ = uncaught(DiagnosisInterrupted(), monkeypatch)
    assert code == errors.INTERRUPTED_CODE
    assert capsys.readouterr().err == "Interrupted: the diagnosis was interrupted; nothing is known yet.\n"
    error = ValueError("of the user's")
    assert uncaught(error, monkeypatch) == (None, [error])
    code, _ = uncaught(ResultInterrupted("message", Unshowable()), monkeypatch)
    assert code == errors.INTERRUPTED_CODE
    assert "cannot be shown: ValueError" in capsys.readouterr().err


def test_a_prompt_stays_open_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert uncaught(ComparisonInterrupted(), monkeypatch) == (None, [])
