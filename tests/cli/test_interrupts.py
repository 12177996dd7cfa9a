"""Ctrl-C and SIGTERM: the best answer so far, how to resume, and the exit code of the signal."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thalweg.cli import interrupts
from thalweg.cli.main import main
from thalweg.comparison import Comparison

# A training function that sends a signal to the command in its seventh call, wherever it runs.
SOURCE = """
import os, pathlib, torch

def train(make_optimizer, report):
    calls = pathlib.Path({folder!r}) / "calls"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if len(calls.read_text()) == 7:
        os.kill({pid}, {number})
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        report(weight.square().sum())
"""


@pytest.fixture
def int_handler() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("int_handler")
@pytest.mark.parametrize(
    ("number", "ignored", "code"),
    [(signal.SIGINT, False, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143)],
)
def test_a_signal_shows_the_best_answer_so_far_and_the_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, ignored: bool, code: int
) -> None:
    # In the background of a script a shell ignores Ctrl-C for a process; SIGTERM must end it in any case.
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    task = tmp_path / "mine.py"
    task.write_text(SOURCE.format(folder=str(tmp_path), pid=os.getpid(), number=int(number)))
    arguments = ["compare", f"{task}:train", "--with", "sgd,adam", "--budget", "8trials", "--workers", "1"]
    arguments += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json"])
    shown = capsys.readouterr()
    so_far = json.loads(shown.out)
    assert end.value.code == code
    assert 6 <= so_far["trainings"] <= 7
    assert so_far["verdict"]["headline"].startswith("Interrupted; best so far: ")
    assert so_far["code"]
    assert Path(so_far["report"]).exists()
    assert "interrupted: finished trainings are stored. Rerun the same command to resume." in shown.err
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "out"), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["trainings"] == so_far["trainings"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json"])
    whole = json.loads(capsys.readouterr().out)
    assert (end.value.code, whole["trainings"]) == (0, 16)
    assert "Interrupted" not in whole["verdict"]["text"]


@pytest.mark.usefixtures("int_handler")
def test_a_signal_before_the_first_training_has_ended_has_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    task = tmp_path / "mine.py"
    source = SOURCE.format(folder=str(tmp_path), pid=os.getpid(), number=int(signal.SIGINT))
    task.write_text(source.replace("== 7", "== 1").replace("weight =", "__import__('time').sleep(60); weight ="))
    with pytest.raises(SystemExit) as end:
        main(["compare", f"{task}:train", "--with", "sgd", "--budget", "8trials", "--out", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (130, "")
    assert "Rerun the same command to resume" in shown.err


@pytest.mark.usefixtures("int_handler")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_while_the_page_is_written_loses_no_answer(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    as_json: bool,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self: Comparison, path: Path) -> Path:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal must interrupt")

    monkeypatch.setattr(Comparison, "report", interrupted)
    arguments = ["compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--workers", "1"]
    arguments += ["--out", str(tmp_path / "out"), *(["--json"] if as_json else [])]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    shown = capsys.readouterr()
    assert end.value.code == code
    if as_json:
        result = json.loads(shown.out)
        assert result["report"] is None
        assert result["verdict"]["headline"]
    else:
        assert "optimizer = thalweg.optim." in shown.out
        assert "Report:" not in shown.out


@pytest.mark.usefixtures("int_handler")
@pytest.mark.parametrize(
    ("arguments", "place", "told"),
    [
        (
            ["doctor", "linear-regression", "--steps", "10"],
            "thalweg.cli.commands.doctor._show",
            interrupts.DIAGNOSIS_ENDED,
        ),
        (["tasks"], "thalweg.cli.commands.tasks.stdout_console", interrupts.INTERRUPTED),
    ],
)
def test_an_interrupted_command_promises_only_what_it_keeps(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    place: str,
    told: str,
) -> None:
    def interrupt(*args: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == told
