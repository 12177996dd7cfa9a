"""The command ``thalweg doctor``: results on stdout, progress on stderr, a page, and an exit code."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import thalweg.diagnosis.diagnose as diagnose_module
from cases import diagnoses
from thalweg.cli.main import cli, main
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.errors import DiagnosisInterrupted, is_hidden
from thalweg.tasks import Training

FILE = """
import torch, thalweg

print("made by the file")

def training(seed):
    print("made by the training")
    x = torch.randn(64, 4)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return thalweg.Training(model, optimizer, [(x, x @ torch.ones(4, 1))], torch.nn.functional.mse_loss)

task = thalweg.Task(
    model=lambda: torch.nn.Linear(4, 1),
    loss=thalweg.supervised(torch.nn.functional.mse_loss),
    data=(torch.randn(100, 4), torch.randn(100, 1)),
    passes=3,
)

def train(make_optimizer, report):
    ...

number = 3
"""


def without_charts(diagnosis: Diagnosis) -> Diagnosis:
    """Leave out the runs, so that the page is made quickly."""
    return replace(diagnosis, sick=(), cured=(), profile={})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("LR", "1e-6"))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace ``diagnose``: it makes the training, notes its arguments, and returns a diagnosis made by hand."""
    noted: list[dict[str, Any]] = []

    def diagnose(function: Callable[[int], Training], **options: Any) -> Diagnosis:
        options["progress"](diagnose_module.DiagnosisProgress("replaying", "lr x10\x1b", 2, 1.5, 60.0))
        noted.append({"training": function(7), **options})
        return without_charts(diagnoses.healthy() if "digits" in options["name"] else diagnoses.vanishing())

    monkeypatch.setattr(diagnose_module, "diagnose", diagnose)
    return noted


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments], catch_exceptions=False)


@pytest.mark.usefixtures("calls", "file")
def test_a_sick_training_is_printed_as_summary_and_page_and_exits_with_3() -> None:
    done = run("mine.py:training", "--seeds", "4")
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert lines[0] == "mine.py:training fails: gradients vanish over depth."
    assert lines[-1] == "Page: doctor.html"
    assert "        nn.init.kaiming_normal_(layer.weight)" in done.stdout
    page = Path("doctor.html").read_text()
    assert "thalweg doctor mine.py:training --seeds 4 --budget 60s --out doctor.html" in page


@pytest.mark.usefixtures("calls", "file")
def test_what_the_training_prints_and_the_progress_go_to_stderr() -> None:
    done = run("mine.py:training", "--json")
    assert done.exit_code == 3
    result = json.loads(done.stdout)
    assert result["cause"]["kind"] == "vanishing_gradient"
    assert result["report"] == "doctor.html"
    assert result["command"].startswith("thalweg doctor mine.py:training")
    assert "made by the file" in done.stderr
    assert "made by the training" in done.stderr
    assert "replaying lr x10\\x1b (2 trainings done; 0:02 so far)" in done.stderr


@pytest.mark.usefixtures("file")
def test_options_reach_the_library(calls: list[dict[str, Any]]) -> None:
    run("mine.py:training", "--seeds", "5", "--budget", "2m", "--steps", "33")
    (call,) = calls
    assert (call["seeds"], call["budget"], call["steps"], call["name"]) == (5, "2m", 33, "mine.py:training")
    assert call["training"].optimizer.param_groups[0]["lr"] == 1e-6


@pytest.mark.usefixtures("file")
def test_a_task_trains_with_the_optimizer_that_is_named(calls: list[dict[str, Any]]) -> None:
    done = run("digits", "--with", "sgd:lr=0.25")
    assert (done.exit_code, calls[0]["name"], calls[0]["steps"]) == (0, "digits", 250)
    assert calls[0]["training"].optimizer.param_groups[0]["lr"] == 0.25
    assert "is healthy." in done.stdout
    run("mine.py:task")
    assert calls[1]["name"] == "mine:task"
    assert calls[1]["steps"] == 6  # 3 passes over 60 examples in batches of 32
    assert calls[1]["training"].optimizer.param_groups[0]["lr"] == 1e-3  # that of adam


@pytest.mark.usefixtures("calls", "file")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py"], "written path/to/file.py:name, got no name. Write mine.py:"),
        (["mine.py:trainin"], "must define 'trainin', and does not. Did you mean train"),
        (["mine.py:train"], "a function training(seed) that returns a thalweg.Training, or a thalweg.Task, got a fu"),
        (["mine.py:number"], "or a thalweg.Task, got int. Write def training(seed)"),
        (["nowhere.py:training"], "the file must exist"),
        (["digit"], "Did you mean digits"),
        (["mine.py:training", "--with", "adam"], "--with is for a task."),
        (["quadratic"], "quadratic: the task must have data, got none"),
        (["digits", "--with", "lbfgs"], "the optimizer must need nothing but gradients, got lbfgs"),
        (["digits", "--with", "adam:schedule=cosine"], "the optimizer must have no schedule here, got cosine"),
        (["mine.py:training", "--seeds", "1"], "1 is not in the range x>=2"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", *arguments])
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert message in " ".join(shown.err.split())
    assert "Traceback" not in shown.err


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("doctor.html", "--out doctor.html: the report must not replace a file of someone else"),
        ("link.html", "--out link.html: the report must be a file of its own, got a link to doctor.html"),
        ("doctor.html/page.html", "--out doctor.html/page.html: the report must be writable, got Not a directory."),
        ("/proc/page.html", "--out /proc/page.html: the report must be writable, got No such file or directory."),
        (".", "Invalid value for '--out': File '.' is a directory."),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_diagnosis(
    out: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose_module, "diagnose", lambda *_, **__: pytest.fail("it diagnosed"))
    Path("doctor.html").write_text("mine")
    Path("link.html").symlink_to("doctor.html")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training", "--out", out])
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert message in shown.err
    assert Path("doctor.html").read_text() == "mine"


@pytest.mark.usefixtures("calls", "file")
def test_a_file_of_someone_else_is_replaced_if_the_user_asks(tmp_path: Path) -> None:
    Path("doctor.html").write_text("mine")
    assert run("mine.py:training", "--overwrite").exit_code == 3
    assert "vanish over depth" in Path("doctor.html").read_text()


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_file_that_appears_during_the_diagnosis_is_kept_and_the_result_is_printed(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diagnose(*_: Any, **__: Any) -> Diagnosis:
        Path("doctor.html").write_text("mine")
        return without_charts(diagnoses.vanishing())

    monkeypatch.setattr(diagnose_module, "diagnose", diagnose)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training", *options])
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert "The page could not be made: --out doctor.html: the report must not replace a file of so" in shown.err
    if options:
        result = json.loads(shown.out)
        assert (result["cause"]["kind"], result["report"]) == ("vanishing_gradient", None)
    else:
        assert "vanish over depth" in shown.out
    assert Path("doctor.html").read_text() == "mine"


@pytest.mark.usefixtures("file")
def test_the_terminal_obeys_no_text_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        diagnose_module, "diagnose", lambda *_, **__: without_charts(diagnoses.hostile("\x1b[31m\u202e"))
    )
    done = run("mine.py:training")
    as_json = run("mine.py:training", "--json")
    for text in (done.output, as_json.output):
        assert {char for char in text if is_hidden(char)} - {"\n"} == set()


@pytest.fixture
def int_handler() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("int_handler", "file")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_signal_shows_what_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int, is_known: bool
) -> None:
    def diagnose(*_: Any, **__: Any) -> Diagnosis:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise DiagnosisInterrupted(without_charts(diagnoses.unknown()) if is_known else None) from None
        raise AssertionError("the signal must interrupt")

    monkeypatch.setattr(diagnose_module, "diagnose", diagnose)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training"])
    shown = capsys.readouterr()
    assert end.value.code == code
    assert ("Caution: Interrupted: this is what was known by then." in shown.out) is is_known
    assert Path("doctor.html").exists() is is_known
    assert "A diagnosis is not stored" in shown.err


@pytest.mark.usefixtures("file")
def test_a_real_training_is_diagnosed_and_cured(capsys: pytest.CaptureFixture[str]) -> None:
    source = FILE.replace("x @ torch.ones(4, 1)", "x @ torch.ones(4)").replace("LR", "0.1")
    Path("mine.py").write_text(source)  # targets of shape (64,) for outputs of shape (64, 1)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training", "--steps", "30", "--seeds", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (end.value.code, result["cause"]["kind"], result["cure"]["verified"]) == (3, "broadcast_targets", True)
    assert min(result["cure"]["after"]) > max(result["cure"]["before"])
    assert "could not be made" not in Path("doctor.html").read_text()


@pytest.mark.usefixtures("file")
def test_a_function_without_a_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("def training():\n    ...\n")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training"])
    assert end.value.code == 2
    told = "mine.py:training: a training function must take one argument, the seed, got training() (at "
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("file")
def test_a_step_that_raises_is_the_users_error_and_no_cause(capsys: pytest.CaptureFixture[str]) -> None:
    source = FILE.replace("mse_loss)\n\ntask", "cross_entropy)\n\ntask").replace("x @ torch.ones(4, 1)", "x[:, 0]")
    Path("mine.py").write_text(source.replace("LR", "0.1"))  # class labels that are real numbers
    with pytest.raises(SystemExit) as end:
        main(["doctor", "mine.py:training", "--steps", "20"])
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert "mine.py:training: the plain step" in shown.err
    assert "Class labels must have dtype int64: pass labels.long()." in shown.err
