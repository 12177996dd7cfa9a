"""No result is lost and no training ends the pool, whatever a training does to its process."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.execution.pools import SCHEDULE, SGD, ended, jobs, losses, run, task, trained_here, workload
from thalweg.comparison import Progress
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.processes import slots
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.errors import TaskError
from thalweg.tasks import as_task

pytestmark = pytest.mark.usefixtures("_forks")
HERE = Path(__file__).resolve()


def trap(path: Path) -> Callable[[], bool]:
    """Return a function that returns True once, over all processes."""

    def sprung() -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    path.touch()
    return sprung


@pytest.mark.parametrize("count", [1, 2])
def test_no_result_is_lost_when_a_worker_dies(count: int, tmp_path: Path) -> None:
    sprung, parent = trap(tmp_path / "trap"), os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent and sprung():
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(3, 1)

    notices: list[str] = []
    results = losses(workload(model), count, notices)
    assert notices == [
        "2 trainings of sgd: the process was ended by SIGKILL, as the system does if memory runs out; it runs once more"
    ]
    for lr, values in trained_here(workload()).items():
        assert results[lr] == pytest.approx(values, rel=1e-5)


class Unsendable(BaseException):
    """Cannot be pickled, nor described."""

    def __reduce__(self) -> str:
        raise TypeError("no")

    def __str__(self) -> str:
        raise ValueError("no words")


def raise_(error: BaseException) -> None:
    raise error


def fork_and_return() -> None:
    if os.fork():
        raise ValueError("this is the parent")


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "exit": (lambda: sys.exit(0), "SystemExit: 0 (at {line})"),
    "interrupt": (lambda: raise_(KeyboardInterrupt()), "KeyboardInterrupt (at {line})"),
    "unsendable": (lambda: raise_(Unsendable()), "Unsendable: without a text (ValueError) (at {line})"),
    "input": (lambda: input(), "EOFError: EOF when reading a line (at {line})"),
    "half a character": (lambda: raise_(ValueError("\ud800")), "ValueError: ? (at {line})"),
    "fork": (fork_and_return, "ValueError: this is the parent (at {line})"),
    "exit at once": (lambda: os._exit(0), "it ended the process with exit code 0"),
    "crash": (lambda: ctypes.string_at(0), "the process was ended by SIGSEGV (at {line})"),
    "abort": (lambda: os.abort(), "the process was ended by SIGABRT (at {line})"),
    "end by signal": (lambda: os.kill(os.getpid(), signal.SIGTERM), "the process was ended by SIGTERM"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_that_ends_its_process_has_failed_and_the_others_train_on(
    fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    act, message = FAULTS[fault]
    parent = os.getpid()

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        print("x" * 100_000)
        os.write(1, b"as libraries print")
        if torch.initial_seed() == 1:
            assert os.getpid() != parent, "this process must not run it"
            act()
        report(1.0)

    results, notices = ended(train)
    assert {seed: result.status for seed, result in results.items()} == {0: "ok", 1: "failed", 2: "ok"}
    got = results[1].message
    place = got.partition(" (at ")[2].rstrip(")")
    assert got == message.format(line=place)
    assert not place or place.startswith(f"{HERE}:")
    assert capfd.readouterr().out == ""  # stdout carries results
    dies = "process" in message
    assert len(notices) == 2 * dies
    assert not dies or notices[1] == f"a training of sgd failed: {got}"


def test_a_training_that_hangs_has_failed_with_its_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clock of the parent jumps once the training hangs, so that no limit depends on the load of the machine."""
    offset_s, clock, hanging = [0.0], time.monotonic, tmp_path / "hanging"
    monkeypatch.setattr(slots, "monotonic", lambda: clock() + offset_s[0])

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        report(1.0)
        while torch.initial_seed() == 1:
            hanging.touch()
            time.sleep(0.001)

    notices: list[str] = []
    requested = [Job((SGD,), (Trial({"lr": 0.1}, seed),), SCHEDULE, 0.1) for seed in range(2)]
    results = {}
    with WorkerPool(as_workload(as_task(train)), 2, notices.append, timeout_s=1e5) as pool:
        for job, (result,) in pool.run(requested, lambda *_: None):
            results[job.trials[0].seed] = result
            deadline = clock() + 300
            while not hanging.exists() and clock() < deadline:
                time.sleep(0.005)
            offset_s[0] = 2e5
    assert results[0].status == "ok"
    assert results[1].status == "failed"
    assert results[1].message.startswith(f"no end after 1e+05 s (at {HERE}:")
    assert notices == [f"a training of sgd failed: {results[1].message}"]


def test_ctrl_c_kills_what_runs_and_is_raised() -> None:
    parent = os.getpid()

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        os.kill(parent, signal.SIGINT)
        time.sleep(100_000)

    requested = [Job((SGD,), (Trial({"lr": 0.1}, 0),), SCHEDULE, 0.1)]
    pool = WorkerPool(as_workload(as_task(train)), 1, pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        list(pool.run(requested, lambda *_: None))
    assert pool._slots[0].worker is None


def test_ctrl_c_while_workers_are_killed_is_raised_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python swallows what a generator raises that is collected instead of closed, and shows a traceback."""
    path, kill = tmp_path / "trap", slots.Slot.kill
    sprung = trap(path)
    path.unlink()
    touched: list[bool] = []
    interrupted: list[bool] = []

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        is_last = sprung()
        report(1.0 + torch.rand(()).item())
        while is_last:
            report(1.0)
            time.sleep(0.001)

    def watch(progress: Progress) -> None:
        if touched and not path.exists():
            raise ValueError("of the watcher")
        if progress.done >= 4 and not touched:
            touched.append(True)
            path.touch()  # the next training is the one that is killed

    def kill_and_interrupt(slot: slots.Slot[Any]) -> None:
        if slot.job is not None and not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        kill(slot)

    monkeypatch.setattr(slots.Slot, "kill", kill_and_interrupt)
    swallowed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", swallowed.append)
    with pytest.raises(KeyboardInterrupt):
        thalweg.compare(train, ["sgd", "adam"], budget="20trials", workers=2, watch=watch)
    assert interrupted
    assert not swallowed


def test_what_runs_is_killed_before_an_error_of_the_store_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the generator of the pool: left to the collector, it would end when the error is forgotten."""
    run, is_running = WorkerPool.run, [False]

    def watched(*arguments: Any, **settings: Any) -> Any:
        is_running[0] = True
        try:
            yield from run(*arguments, **settings)
        finally:
            is_running[0] = False

    def fail(*arguments: Any, **settings: Any) -> None:
        assert is_running[0]
        raise OSError("the disk is full")

    monkeypatch.setattr(WorkerPool, "run", watched)
    monkeypatch.setattr("thalweg.comparison.trial_runner.TrialRunner._keep", fail)
    with pytest.raises(OSError, match="the disk is full") as raised:
        thalweg.compare("linear-regression", ["sgd", "adam"], budget="4trials", workers=2)
    assert raised.tb is not None  # it is held
    assert not is_running[0]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("fault", ["exit", "interrupt", "hang"])
def test_where_there_are_no_processes_a_training_fails_by_itself_too(fault: str) -> None:
    """As on a machine with a GPU: what can be stopped in this process is stopped."""

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        while torch.initial_seed() == 1:
            FAULTS.get(fault, (lambda: time.sleep(0.001), ""))[0]()
        report(1.0)

    results, _ = ended(train, timeout_s=0.3 if fault == "hang" else 1e5)
    assert {seed: result.status for seed, result in results.items()} == {0: "ok", 1: "failed", 2: "ok"}
    kind = {"exit": "SystemExit: 0", "interrupt": "KeyboardInterrupt", "hang": "OutOfTime: no end after 0.3 s"}[fault]
    assert results[1].message.startswith(f"{kind} (at {HERE}:")


@pytest.mark.usefixtures("fresh")
def test_ctrl_c_in_this_process_is_no_failure_of_the_training() -> None:
    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ended(train)


@pytest.mark.parametrize("forks", [True, False])
def test_an_error_of_the_watcher_is_no_failure_of_the_training(forks: bool, request: pytest.FixtureRequest) -> None:
    if not forks:
        request.getfixturevalue("fresh")
    ended: list[Job] = []

    def watch(job: Job, share: float) -> None:
        raise ValueError("of the watcher")

    def train_slowly(model: nn.Module, batch: Any) -> torch.Tensor:
        time.sleep(0.01)  # a worker reports at most ten times a second
        return model(batch[0]).square().mean()

    trained = as_workload(replace(task(), loss=train_slowly))
    with WorkerPool(trained, 1, pytest.fail) as pool, pytest.raises(ValueError, match="of the watcher"):
        ended += [job for job, _ in pool.run(jobs(0.1, seeds=(0,)), watch)]
    assert ended == []


def test_a_pilot_that_hangs_names_the_line() -> None:
    def model() -> nn.Module:
        while True:
            time.sleep(0.001)

    with pytest.raises(TaskError, match=rf"task: .* got OutOfTime: no end after 0.2 s \(at {HERE}:\d+\)"):
        thalweg.compare(task(model), ["sgd"], budget="4trials", timeout=0.02)


def test_the_members_of_a_population_that_dies_train_one_by_one() -> None:
    parent = os.getpid()

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and os.getpid() != parent and torch.initial_seed() == 1:
                os._exit(7)
            return super().forward(x)

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        model = Model(3, 1)
        make_optimizer(model)
        report(model(torch.ones(1, 3)).square())

    notices: list[str] = []
    function = as_workload(as_task(train))
    population = Job((SGD,) * 3, tuple(Trial({"lr": 0.1}, seed) for seed in (1, 1, 1)), SCHEDULE, 0.1)
    with WorkerPool(function, 1, notices.append) as pool:
        ((_, results),) = list(pool.run([population], lambda *_: None))
    assert [result.message for result in results] == ["it ended the process with exit code 7"] * 3
    assert len(notices) == 1 + 3 * 2


def test_at_the_deadline_a_training_that_does_not_report_is_killed() -> None:
    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        time.sleep(100_000)

    requested = [Job((SGD,), (Trial({"lr": 0.1}, 0),), SCHEDULE, 0.1)]
    with WorkerPool(as_workload(as_task(train)), 1, pytest.fail) as pool:
        assert list(pool.run(requested, lambda *_: None, time.monotonic() + 0.1)) == []
        assert pool._slots[0].worker is None


def test_a_training_that_raises_in_a_worker_is_a_result() -> None:
    parent = os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent:
            raise RuntimeError("no such device")
        return nn.Linear(3, 1)

    with WorkerPool(workload(model), 2, pytest.fail) as pool:
        results = [result for _, results in run(pool, jobs()) for result in results]
    assert [result.status for result in results] == ["failed"] * 6
    assert "no such device" in results[0].message
