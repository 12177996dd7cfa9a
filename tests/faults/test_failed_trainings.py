"""Trainings that raise: shown with their line, tried again by the same command, and stopped if nothing else trains."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import thalweg
from tests.pages import Reader
from thalweg.cli.main import cli
from thalweg.comparison import Progress, Store
from thalweg.comparison.failures import FIRST_CHECK, failures_of, losses_of, signature_of
from thalweg.comparison.results.storage.trials import StoredTrials
from thalweg.comparison.training.result import MAX_TRACEBACK
from thalweg.comparison.trial_runner import TrialRunner
from thalweg.errors import TaskError

# The data are a file. It goes away at the call whose number is in the file `goes_at`, and for one call in `fails_at`.
TASK = """
import pathlib, torch

here = pathlib.Path(__file__).parent
calls = here / "calls"

def number(name):
    path = here / name
    return int(path.read_text()) if path.exists() else -1

def train(make_optimizer, report):
    calls.write_text(str(number("calls") + 1))
    if number("calls") == number("goes_at"):
        (here / "data").unlink()
    if number("calls") == number("fails_at"):
        raise OSError("the server of the data is busy")
    target = float((here / "data").read_text())
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(3):
        optimizer.zero_grad()
        loss = (weight - target).square().mean()
        loss.backward()
        optimizer.step()
    report(loss.item() + 0.01 * torch.rand(()).item())

class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("needs a closure")

def broken(params, lr=0.1):
    return torch.optim.SGD(params, lr=lr) if number("calls") < 1 else Broken(params, lr=lr)
"""
GONE, BUSY = (
    1 + TASK.splitlines().index(f"    {line}")
    for line in (
        'target = float((here / "data").read_text())',
        '    raise OSError("the server of the data is busy")',
    )
)


class Folder:
    """A folder with a task, and the command that compares on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.task, self.data = path, path / "mine.py", path / "data"
        self.task.write_text(TASK)
        self.data.write_text("0.25")

    def compare(self, *options: str, contenders: str = "sgd,adam") -> Result:
        command = ["compare", f"{self.task}:train", "--with", contenders, "--budget", "12trials", "--workers", "1"]
        return CliRunner().invoke(cli, [*command, "--out", str(self.path / "out"), *options])

    def set(self, name: str, number: int) -> None:
        (self.path / name).write_text(str(number))

    @property
    def calls(self) -> int:
        return int((self.path / "calls").read_text())

    def trials(self) -> list:
        store = Store(self.path / "out", write=False)
        return store.trials(store.find().id)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_data_that_go_away_stop_the_run_and_the_same_command_ends_it(folder: Folder, tmp_path: Path) -> None:
    folder.set("goes_at", 8)
    stopped = folder.compare()
    assert isinstance(stopped.exception, TaskError)  # `main` prints it and ends with code 2
    message = str(stopped.exception)
    assert f"{FIRST_CHECK} of {8 + FIRST_CHECK} failed with FileNotFoundError" in message
    assert f"(at {folder.task}:{GONE})" in message
    assert "that should succeed fails too" in message
    # Trainings before, those of the rule, and the repeated one.
    assert folder.calls == 8 + FIRST_CHECK
    assert (
        f"a training failed: FileNotFoundError: [Errno 2] No such file or directory: '{folder.data}'" in stopped.stderr
    )
    before = {trial.key: trial for trial in folder.trials() if trial.result.status == "ok"}
    assert len(before) == 8

    folder.data.write_text("0.25")
    done = folder.compare("--json")
    assert done.exit_code == 0
    assert f"trying again: {FIRST_CHECK} trainings of" in done.stderr
    after = {trial.key: trial for trial in folder.trials()}
    assert before.items() <= after.items()
    assert {trial.result.status for trial in after.values()} == {"ok"}

    (tmp_path / "other").mkdir()
    other = Folder(tmp_path / "other")
    whole = other.compare("--json")
    assert json.loads(whole.stdout)["verdict"] == json.loads(done.stdout)["verdict"]


def test_a_failed_training_is_shown_with_its_line_and_tried_again_though_the_comparison_finished(
    folder: Folder,
) -> None:
    folder.set("fails_at", 5)
    done = folder.compare()
    where = f"OSError: the server of the data is busy (at {folder.task}:{BUSY})"
    assert done.exit_code == 0
    assert f"1 training of sgd failed: {where}" in done.stdout
    page = Reader((folder.path / "out" / "report.html").read_text()).text
    assert where in page
    assert 'raise OSError("the server of the data is busy")' in page  # the traceback
    result = json.loads(CliRunner().invoke(cli, ["report", str(folder.path / "out"), "--json"]).stdout)
    (failure,) = result["failures"]
    assert (failure["error"], failure["count"], failure["contenders"]) == (where, 1, ["sgd"])
    assert "Traceback (most recent call last)" in failure["traceback"]

    calls = folder.calls
    again = folder.compare("--json")
    assert again.exit_code == 0
    assert folder.calls > calls
    assert "nothing was run" not in again.stderr
    assert json.loads(again.stdout)["failures"] == []
    calls = folder.calls
    assert "nothing was run" in folder.compare().stderr
    assert folder.calls == calls


def test_an_error_is_shown_until_another_training_takes_its_place(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.set("fails_at", 5)
    folder.compare()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialRunner, "train", interrupt)
        assert folder.compare().exit_code != 0
    result = json.loads(CliRunner().invoke(cli, ["report", str(folder.path / "out"), "--json"]).stdout)
    assert [failure["count"] for failure in result["failures"]] == [1]
    assert json.loads(folder.compare("--json").stdout)["failures"] == []


def test_a_contender_that_always_fails_does_not_stop_the_others(folder: Folder) -> None:
    done = folder.compare("--json", contenders=f"{folder.task}:broken,sgd,adam")
    result = json.loads(done.stdout)
    assert done.exit_code == 0
    assert result["verdict"]["recommended"] in ("sgd", "adam")
    (failure,) = result["failures"]
    assert failure["contenders"] == [f"{folder.task}:broken"]
    assert "RuntimeError: needs a closure" in failure["error"]
    # Of one kind of failure the store keeps one traceback, and not all of a long one.
    failed = [trial.result for trial in folder.trials() if trial.result.status == "failed"]
    assert len(failed) == failure["count"] > 1
    assert sum(bool(end.traceback) for end in failed) == 1
    assert all(len(end.traceback) <= MAX_TRACEBACK for end in failed)


def test_a_single_contender_that_always_fails_stops(folder: Folder) -> None:
    stopped = folder.compare(contenders=f"{folder.task}:broken")
    assert isinstance(stopped.exception, TaskError)
    assert "a training of" in str(stopped.exception)
    assert "that should succeed fails too" in str(stopped.exception)


def test_if_most_trainings_fail_the_exit_code_says_it(folder: Folder) -> None:
    done = folder.compare("--json", contenders=f"{folder.task}:broken,sgd")
    result = json.loads(done.stdout)
    assert result["verdict"]["recommended"] == "sgd"
    share = sum(failure["count"] for failure in result["failures"]) / result["trainings"]
    assert (done.exit_code, [part["name"] for part in result["missing_parts"]]) == (
        (2, ["a result of most trainings"]) if share > 0.5 else (0, [])
    )


@pytest.mark.parametrize(("failed", "names"), [(1, []), (2, ["a result of most trainings"])])
def test_a_store_in_which_more_than_half_failed_lacks_a_part(failed: int, names: list[str], folder: Folder) -> None:
    folder.compare(contenders=f"{folder.task}:broken,sgd")
    trials = folder.trials()
    bad, good = (next(t for t in trials if t.result.status == status) for status in ("failed", "ok"))
    store = Store(folder.path / "out", write=False)
    assert [name for name, _ in losses_of(store, StoredTrials([good, *[bad] * failed], [], 0))] == names


def test_divergence_is_a_result_and_is_not_tried_again(tmp_path: Path) -> None:
    arguments = {"budget": "4trials", "store": tmp_path / "store.sqlite", "workers": 1}
    wild = thalweg.rules.SGD(lr=1e9)
    assert thalweg.compare("quadratic", [wild, "gd"], **arguments).failures == []
    reports: list[Progress] = []
    thalweg.compare("quadratic", [wild, "gd"], **arguments, watch=reports.append)
    assert reports == []


def test_failures_alike_share_kind_and_line_or_text_without_numbers() -> None:
    assert signature_of("OSError: a (at x.py:3). Do it.") == signature_of("OSError: b 17 (at x.py:3)")
    assert signature_of("OSError: a (at x.py:3)") != signature_of("OSError: a (at x.py:4)")
    assert signature_of("OSError: a (at x.py:3)") != signature_of("KeyError: a (at x.py:3)")
    assert signature_of("OSError: file 17 is gone") == signature_of("OSError: file 18 is gone")
    assert failures_of([]) == []
