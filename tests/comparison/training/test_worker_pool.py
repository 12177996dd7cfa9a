"""The crew: the same results whoever trains, and nothing lost when a worker dies or hangs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning import num_workers
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.planning.pilot import ExecutionMode
from thalweg.comparison.training import worker_pool
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.worker_pool import Job, WorkerPool


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no worker count as hanging because the machine is busy: on some it takes minutes to start one."""
    monkeypatch.setattr(worker_pool, "LEAST_PATIENCE_S", 1e5)


HORIZON = TrainingSchedule(steps=20, schedule="linear", looks=2)


def task(model=lambda: nn.Linear(3, 1)) -> thalweg.Task:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x.sum(1, True)), passes=4
    )


def jobs() -> list[Job]:
    sgd = CONTENDERS["sgd"]
    return [
        Job((sgd, sgd), tuple(Trial({"lr": rate}, seed) for seed in (0, 1)), HORIZON, 0.1) for rate in (0.01, 0.1, 0.2)
    ]


def losses(of: thalweg.Task, workers: int, said: list[str]) -> dict[float, list[float]]:
    asked = jobs()
    with WorkerPool(of, workers, said.append) as hired:
        done = dict(hired.results(asked, lambda job, share: None))
    assert done.keys() == set(asked)
    return {job.trials[0].settings["lr"]: [one.test for one in results] for job, results in done.items()}


def test_workers_train_as_this_process_does() -> None:
    said: list[str] = []
    here, there = losses(task(), 1, said), losses(task(), 2, said)
    for rate, values in here.items():
        assert there[rate] == pytest.approx(values, rel=1e-5)
    assert said == []


def trap(path: Path):
    """A function that says once that it was sprung, whoever asks. Local, so that it travels whole."""

    def sprung() -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    path.touch()
    return sprung


def test_a_worker_that_dies_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    sprung, home = trap(tmp_path / "trap"), os.getpid()

    def model() -> nn.Module:
        if os.getpid() != home and sprung():
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(3, 1)

    said: list[str] = []
    found = losses(task(model), 2, said)
    assert said == ["a worker process has died; what it had not finished is trained once more, in new ones"]
    for rate, values in losses(task(), 1, said).items():
        assert found[rate] == pytest.approx(values, rel=1e-5)


def test_workers_that_always_die_leave_the_work_to_this_process() -> None:
    home = os.getpid()

    def model() -> nn.Module:
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(3, 1)

    said: list[str] = []
    found = losses(task(model), 2, said)
    assert [one.rpartition(" is ")[2] for one in said] == [
        "trained once more, in new ones",
        "trained here, one after the other",
    ]
    assert len(found) == 3


def test_a_worker_that_hangs_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sprung, home = trap(tmp_path / "trap"), os.getpid()
    # The clock leaps once a worker hangs, so that the limit is reached then.
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + (0.0 if (tmp_path / "trap").exists() else 1e6), sleep=time.sleep
    )
    monkeypatch.setattr(worker_pool, "time", clock)

    def model() -> nn.Module:
        if os.getpid() != home and sprung():
            time.sleep(10_000)
        return nn.Linear(3, 1)

    said: list[str] = []
    assert len(losses(task(model), 2, said)) == 3
    assert len(said) == 1
    assert said[0].startswith("no worker process has finished anything for ")


def test_no_worker_outlives_a_comparison_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, threading, time\nimport thalweg\n"
        "def die(progress):\n"
        "    if progress.stage == 'retrain':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "thalweg.compare('digits', ['sgd', 'adam'], budget='2x8trials', workers=2, watch=die)\n"
    )
    # Workers inherit the pipe: reading it ends when the last of them has.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, timeout=900)
    assert done.returncode == -signal.SIGKILL


def test_workers_are_hired_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    sgd = CONTENDERS["sgd"]
    ways = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    for alone_s, planned_s, hired in ((1.1, 1000.0, 2), (1.9, 1000.0, 1), (1.1, 5.0, 1)):
        measured = iter([1.0, alone_s])
        monkeypatch.setattr(num_workers, "seconds_of", lambda action, measured=measured: next(measured))
        monkeypatch.setattr(num_workers.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
        found, found_ways = choose_num_workers(task(), [sgd], ways, planned_s, 0, asked=None)
        assert found == hired
        if hired == 2:
            assert found_ways["sgd"].member_s == pytest.approx(0.1 * 1.1 / 2)
    unpicklable = replace(task(), loss=thalweg.supervised(Stubborn()))
    assert choose_num_workers(unpicklable, [sgd], ways, 1000.0, 0, asked=2)[0] == 1


class Stubborn:
    """A loss that cannot be sent anywhere."""

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()

    def __reduce__(self) -> str:
        raise TypeError("a handle to something here")


def test_a_task_read_from_a_file_is_trained_by_workers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch, thalweg\nfrom torch import nn\n"
        "def model():\n    return nn.Linear(3, 1)\n"
        "def loss(output, target):\n    return (output - target).square().mean()\n"
        "x = torch.randn(40, 3)\n"
        "task = thalweg.Task(model=model, loss=thalweg.supervised(loss), data=(x, x.sum(1, True)), passes=2)\n"
    )
    told = []
    found = thalweg.compare(f"{path}:task", ["sgd", "adam"], budget="2x4trials", workers=2, watch=told.append)
    assert found.plan.workers == 2
    assert not [one.said for one in told if one.said]
