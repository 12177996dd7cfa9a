"""The worker pool: the same results in any process, and no result lost when a worker dies or hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Progress
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning import device_choice
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.training import timing, worker_pool
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.worker_pool import Job, WorkerPool
from thalweg.comparison.training.workload import Workload, as_workload


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no worker count as hanging because the machine is busy, where it may take minutes to start one."""
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 1e5)


SCHEDULE = TrainingSchedule(steps=20, schedule="linear", num_evaluations=2)
SGD = CONTENDERS["sgd"]


@pytest.fixture(autouse=True)
def long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine workers may take minutes to start."""
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 1e4)


def task(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> thalweg.Task:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x.sum(1, True)), passes=4
    )


def workload(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> Workload:
    return as_workload(task(model))


def jobs() -> list[Job]:
    return [
        Job((SGD, SGD), tuple(Trial({"lr": lr}, seed) for seed in (0, 1)), SCHEDULE, 0.1) for lr in (0.01, 0.1, 0.2)
    ]


def run(pool: WorkerPool) -> Iterator[tuple[float, list[float]]]:
    """Run the jobs and yield the learning rate and the test losses of each as it ends."""
    requested = jobs()
    ended = set()
    for job, results in pool.run(requested, lambda job, share: None):
        ended.add(job)
        yield job.trials[0].settings["lr"], [result.test for result in results]
    assert ended == set(requested)


def losses(trained: Workload, count: int, notices: list[str]) -> dict[float, list[float]]:
    """Return the test losses of all jobs, by learning rate, with this number of workers."""
    with WorkerPool(trained, count, notices.append) as pool:
        return dict(run(pool))


def test_workers_train_as_this_process_does() -> None:
    notices: list[str] = []
    local, remote = losses(workload(), 1, notices), losses(workload(), 2, notices)
    for lr, values in local.items():
        assert remote[lr] == pytest.approx(values, rel=1e-5)
    assert notices == []


def trap(path: Path) -> Callable[[], bool]:
    """Return a function that returns True once, over all processes. It is local, so that it is pickled by value."""

    def sprung() -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    path.touch()
    return sprung


def test_no_result_is_lost_when_a_worker_dies(tmp_path: Path) -> None:
    sprung, parent = trap(tmp_path / "trap"), os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent and sprung():
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(3, 1)

    notices: list[str] = []
    results = losses(workload(model), 2, notices)
    assert notices == ["a worker process has died; the jobs it left unfinished run once more in new workers"]
    for lr, values in losses(workload(), 1, notices).items():
        assert results[lr] == pytest.approx(values, rel=1e-5)


def test_jobs_run_in_this_process_if_workers_always_die() -> None:
    parent = os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(3, 1)

    notices: list[str] = []
    results = losses(workload(model), 2, notices)
    assert [notice.rpartition(" unfinished ")[2] for notice in notices] == [
        "run once more in new workers",
        "run one after the other in this process",
    ]
    assert len(results) == 3


def test_no_result_is_lost_when_a_worker_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps once the other jobs have ended, so that no timeout depends on the load of the machine."""
    sprung, parent = trap(tmp_path / "trap"), os.getpid()
    offset_s, clock = [0.0], time.monotonic
    monkeypatch.setattr(worker_pool, "monotonic", lambda: clock() + offset_s[0])

    def model() -> nn.Module:
        if os.getpid() != parent and sprung():
            time.sleep(100_000)
        return nn.Linear(3, 1)

    notices: list[str] = []
    results: dict[float, list[float]] = {}
    with WorkerPool(workload(model), 2, notices.append) as pool:
        for lr, values in run(pool):
            results[lr] = values
            offset_s[0] = 2e4 if len(results) >= 2 else 0.0
    assert len(results) == 3
    assert len(notices) == 1
    assert notices[0].startswith("no worker process has finished a job for 10002 s; ")


def test_no_worker_outlives_a_comparison_that_was_killed() -> None:
    script = (
        "import os, signal, sys, threading, time\nimport thalweg\n"
        "def die(progress):\n"
        "    if progress.stage == 'retrain':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "thalweg.compare('digits', ['sgd', 'adam'], budget='2x8trials', workers=2, watch=die)\n"
    )
    # Workers inherit the pipe: reading it ends when the last of them has.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, timeout=200)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("single_thread_s", "planned_s", "count"), [(1.1, 1000.0, 2), (1.9, 1000.0, 1), (1.1, 5.0, 1), (1.1, 24.0, 2)]
)
def test_workers_are_started_where_they_pay(
    single_thread_s: float, planned_s: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    durations = iter([1.0, single_thread_s])  # of a step with all threads, and with one
    monkeypatch.setattr(timing, "seconds_of", lambda action, **_: next(durations))
    monkeypatch.setattr(device_choice.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    chosen, chosen_modes = choose_num_workers(workload(), [SGD], modes, planned_s, 0, requested=None)
    assert chosen == count
    if count == 1:
        assert chosen_modes == modes
    else:
        assert chosen_modes["sgd"].member_s == pytest.approx(0.1 * 1.1 / 2)
        assert chosen_modes["sgd"].fixed_s == pytest.approx(1.0 * 1.1 / 2)


def test_a_task_that_cannot_be_pickled_has_no_workers() -> None:
    modes = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    trained = as_workload(replace(task(), loss=thalweg.supervised(Unpicklable())))
    assert choose_num_workers(trained, [SGD], modes, 1000.0, 0, requested=2) == (1, modes)


class Unpicklable:
    """A loss that cannot be pickled."""

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()

    def __reduce__(self) -> str:
        raise TypeError("a handle of this process")


def test_a_task_read_from_a_file_is_trained_by_workers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch, thalweg\nfrom torch import nn\n"
        "def model():\n    return nn.Linear(3, 1)\n"
        "def loss(output, target):\n    return (output - target).square().mean()\n"
        "x = torch.randn(40, 3)\n"
        "task = thalweg.Task(model=model, loss=thalweg.supervised(loss), data=(x, x.sum(1, True)), passes=2)\n"
    )
    stages: list[Progress] = []
    comparison = thalweg.compare(f"{path}:task", ["sgd", "adam"], budget="2x4trials", workers=2, watch=stages.append)
    assert comparison.plan.num_workers == 2
    assert not [progress.message for progress in stages if progress.message]


def test_a_training_that_raises_in_a_worker_is_a_result() -> None:
    parent = os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent:
            raise RuntimeError("no such device")
        return nn.Linear(3, 1)

    notices: list[str] = []
    with WorkerPool(workload(model), 2, notices.append) as pool:
        results: list[TrainingResult] = [
            result for _, results in pool.run(jobs(), lambda *_: None) for result in results
        ]
    assert [result.status for result in results] == ["failed"] * 6
    assert "no such device" in results[0].message
    assert notices == []
