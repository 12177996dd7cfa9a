"""The worker pool: the same results in any process, and workers where they pay."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import thalweg
from tests.comparison.execution.pools import SCHEDULE, SGD, ended, jobs, losses, run, task, trained_here, workload
from thalweg.comparison import Progress
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.execution import worker_pool
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.processes import slots
from thalweg.comparison.training import timing
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import threads
from thalweg.errors import SettingError
from thalweg.tasks import Splits, as_task

pytestmark = pytest.mark.usefixtures("_forks")


@pytest.mark.parametrize("count", [1, 2])
def test_workers_train_as_this_process_does(count: int) -> None:
    notices: list[str] = []
    remote = losses(workload(), count, notices)
    for lr, values in trained_here(workload()).items():
        assert remote[lr] == pytest.approx(values, rel=1e-5)
    assert notices == []


@pytest.mark.usefixtures("fresh")
def test_fresh_workers_train_as_this_process_does_and_with_its_settings() -> None:
    notices: list[str] = []
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        doubled = replace(task(), data=(x, x.sum(1, True)))  # the model follows the default dtype
        with WorkerPool(as_workload(doubled), 2, notices.append) as pool:
            ((_, remote),) = list(run(pool, jobs(0.1)))  # one job: the second worker is not started
        here = trained_here(as_workload(doubled))[0.1]
    finally:
        torch.set_default_dtype(torch.float32)
    assert [result.test for result in remote] == pytest.approx(here, rel=1e-12)
    assert notices == ["each worker is started anew, which takes seconds: the test forbids it"]


def test_many_reports_come_back() -> None:
    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C is the parent's
        for k in range(20_000):
            report(1 / (k + 1))

    results, _ = ended(train)
    assert [len(results[seed].evaluations) for seed in range(3)] == [20_000] * 3


def test_the_limit_of_a_training_follows_predictions_and_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 60.0)
    (job,) = jobs(0.1)
    pool = WorkerPool(workload(), 2, pytest.fail)
    assert pool._timeout(job) == 60 + 20 * 0.1 * 2
    assert pool._timeout(replace(job, predicted_s=float("inf"))) == float("inf")
    pool._outcome(job, slots.Ending("done", [], 8.0))  # eight times as long as predicted, or 4 s for a training
    assert pool._timeout(job) == 60 + 20 * 8
    assert pool._timeout(replace(job, predicted_s=float("inf"))) == 60 + 20 * 8
    assert WorkerPool(workload(), 2, pytest.fail, timeout_s=3.0)._timeout(job) == 6.0


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "2m"])
def test_a_timeout_is_a_positive_number_of_seconds(value: Any) -> None:
    with pytest.raises(SettingError, match="thalweg: timeout must be a number of seconds, more than 0, got "):
        thalweg.compare("quadratic", ["gd"], budget="4trials", timeout=value)


def test_stopped_jobs_are_left_and_the_pool_runs_no_more(tmp_path: Path) -> None:
    mark = tmp_path / "left"

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        try:
            while True:
                report(1.0)
                if torch.initial_seed() == 0:
                    return
                time.sleep(0.001)
        finally:
            mark.touch()

    requested = [Job((SGD,), (Trial({"lr": 0.1}, seed),), SCHEDULE, 0.1) for seed in range(4)]
    with WorkerPool(as_workload(as_task(train)), 2, pytest.fail) as pool:
        seeds = []
        for job, _ in pool.run(requested, lambda *_: None):
            seeds.append(job.trials[0].seed)
            mark.unlink()
            pool.stop()
        assert seeds == [0]
        assert mark.exists()  # it left by itself, through report
        assert list(pool.run(requested, lambda *_: None)) == []


def test_the_next_job_may_depend_on_the_last_result() -> None:
    results: list[float] = []

    def ask() -> Iterator[Job]:
        for number in range(3):
            assert len(results) == number
            yield jobs(0.1 * (number + 1), seeds=(0,))[0]

    with WorkerPool(workload(), 1, pytest.fail) as pool:
        for job, _ in pool.run(ask(), lambda *_: None):
            results.append(job.trials[0].settings["lr"])
    assert results == pytest.approx([0.1, 0.2, 0.3])


class Loaded(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Examples that say whose child has loaded them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(3), torch.tensor(os.getppid())


@pytest.mark.parametrize("lasting", [False, True])
def test_loaders_have_worker_processes_inside_a_worker(lasting: bool) -> None:
    parent = os.getpid()
    loaders = [DataLoader(Loaded(), batch_size=4, num_workers=1, persistent_workers=lasting) for _ in range(3)]
    for loader in loaders if lasting else ():
        assert len(list(loader)) == 2  # its processes live on in this process

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        assert batch[1].unique().tolist() == [os.getpid()]
        assert os.getpid() != parent
        return model(batch[0]).square().mean()

    trained = as_workload(replace(task(), data=Splits(*loaders), loss=loss))
    short = [replace(job, schedule=replace(SCHEDULE, steps=2, num_evaluations=1)) for job in jobs(seeds=(0,))]
    with WorkerPool(trained, 2, pytest.fail, timeout_s=100.0) as pool:
        assert [(result.status, result.message) for _, (result,) in run(pool, short)] == [("ok", "")] * 3
    assert [len(list(loader)) for loader in loaders] == [2, 2, 2]


@pytest.mark.parametrize(
    ("single_thread_s", "planned_s", "count"), [(1.1, 1000.0, 2), (1.9, 1000.0, 1), (1.1, 0.5, 1), (1.1, 2.0, 2)]
)
def test_workers_are_started_where_they_pay(
    single_thread_s: float, planned_s: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    durations = iter([1.0, single_thread_s])  # of a step with all threads, and with one
    monkeypatch.setattr(timing, "seconds_of", lambda action, **_: next(durations))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    chosen, chosen_modes = choose_num_workers(workload(), [SGD], modes, planned_s, 0, requested=None)
    assert chosen == count
    if count == 1:
        assert chosen_modes == modes
    else:
        assert chosen_modes["sgd"].member_s == pytest.approx(0.1 * 1.1 / 2)
        assert chosen_modes["sgd"].fixed_s == pytest.approx(1.0 * 1.1 / 2)


@pytest.mark.parametrize("forks", [True, False])
def test_a_task_that_cannot_be_pickled_has_workers_only_by_forks(forks: bool, request: pytest.FixtureRequest) -> None:
    if not forks:
        request.getfixturevalue("fresh")
    lock = threading.Lock()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with lock:
            return (output - target).square().mean()

    modes = {"sgd": ExecutionMode(8, 1.0, 0.1, "population of 8")}
    trained = as_workload(replace(task(), loss=thalweg.supervised(loss)))
    assert choose_num_workers(trained, [SGD], modes, 1000.0, 0, requested=2)[0] == (2 if forks else 1)
    if forks:
        with WorkerPool(trained, 2, pytest.fail) as pool:
            assert {lr: results[0].status for lr, results in run(pool, jobs())} == dict.fromkeys((0.01, 0.1, 0.2), "ok")


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


@pytest.mark.parametrize("is_known", [True, False])
def test_a_worker_is_started_anew_only_for_a_contender_that_it_does_not_know(tmp_path: Path, is_known: bool) -> None:
    """The first training of a process is slow, and a short budget begins with a training of each contender."""
    file, parent = tmp_path / "processes", os.getpid()

    def model() -> nn.Module:
        if os.getpid() != parent:
            with file.open("a") as stream:
                stream.write(f"{os.getpid()}\n")
        return nn.Linear(3, 1)

    trained, adam = workload(model), CONTENDERS["adam"]
    both = [Job((each,), (Trial({"lr": 0.01}, 0),), SCHEDULE, 0.1) for each in (SGD, adam)]
    with WorkerPool(trained, 1, pytest.fail, contenders=(SGD, adam) if is_known else ()) as pool:
        results = [result for job in both for _, (result,) in pool.run([job], lambda job, share: None)]
    assert [result.status for result in results] == ["ok", "ok"]
    assert len(set(file.read_text().split())) == (1 if is_known else 2)


def test_one_process_trains_all_contenders_of_a_comparison(tmp_path: Path) -> None:
    file = tmp_path / "processes"

    def train(make_optimizer: Any, report: Any) -> None:
        with file.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = make_optimizer([weight])
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
            report(float(weight.detach() ** 2))

    thalweg.compare(train, ["sgd", "adam", "lion"], budget="2trials", workers=1, store=tmp_path / "store.db")
    assert len(set(file.read_text().split()) - {str(os.getpid())}) == 1
