"""The worker pool: the same results in any process, and no result lost, whatever a training does to its process."""

import ctypes
import os
import signal
import sys
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
from thalweg.comparison import Progress
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution import worker_pool
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.planning import num_workers
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.processes import slots
from thalweg.comparison.training import timing
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.engine.core import threads
from thalweg.errors import SettingError, TaskError
from thalweg.tasks import Splits, as_task

SCHEDULE = TrainingSchedule(steps=20, schedule="linear", num_evaluations=2)
SGD = CONTENDERS["sgd"]
HERE = Path(__file__).resolve()


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork, whatever threads the test runner has; and let no worker hang because the machine is busy."""
    monkeypatch.setattr(worker_pool, "why_no_fork", lambda: "")
    monkeypatch.setattr(num_workers, "why_no_fork", lambda: "")
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 1e4)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in fresh processes instead of forks."""
    monkeypatch.setattr(worker_pool, "why_no_fork", lambda: "the test forbids it")
    monkeypatch.setattr(num_workers, "why_no_fork", lambda: "the test forbids it")


def task(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> thalweg.Task:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x.sum(1, True)), passes=4
    )


def workload(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> Workload:
    return as_workload(task(model))


def jobs(*lrs: float, seeds: tuple[int, ...] = (0, 1)) -> list[Job]:
    trials = {lr: tuple(Trial({"lr": lr}, seed) for seed in seeds) for lr in lrs or (0.01, 0.1, 0.2)}
    return [Job((SGD,) * len(seeds), trials[lr], SCHEDULE, 0.1) for lr in trials]


def run(pool: WorkerPool, requested: list[Job]) -> Iterator[tuple[float, list[TrainingResult]]]:
    """Run jobs and yield the learning rate and the results of each as it ends."""
    ended = set()
    for job, results in pool.run(requested, lambda job, share: None):
        ended.add(job)
        yield job.trials[0].settings["lr"], results
    assert ended == set(requested)


def losses(trained: Workload, count: int, notices: list[str]) -> dict[float, list[float]]:
    """Return the test losses of all jobs, by learning rate, with this number of workers."""
    with WorkerPool(trained, count, notices.append) as pool:
        return {lr: [result.test for result in results] for lr, results in run(pool, jobs())}


def trained_here(trained: Workload) -> dict[float, list[float]]:
    return {
        job.trials[0].settings["lr"]: [
            result.test for result in trained.train(job.contenders, job.trials, job.schedule)
        ]
        for job in jobs()
    }


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


def ended(function: Callable[..., None], count: int = 1, **options: Any) -> tuple[dict[int, TrainingResult], list[str]]:
    """Return the results of a training function by seed, from 0 to 2; and the notices."""
    notices: list[str] = []
    requested = [Job((SGD,), (Trial({"lr": 0.1}, seed),), SCHEDULE, 0.1) for seed in range(3)]
    with WorkerPool(as_workload(as_task(function)), count, notices.append, **options) as pool:
        return {job.trials[0].seed: results[0] for job, results in pool.run(requested, lambda *_: None)}, notices


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


def test_many_reports_come_back() -> None:
    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer(nn.Linear(2, 1))
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C is the parent's
        for k in range(20_000):
            report(1 / (k + 1))

    results, _ = ended(train)
    assert [len(results[seed].evaluations) for seed in range(3)] == [20_000] * 3


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


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "2m"])
def test_a_timeout_is_a_positive_number_of_seconds(value: Any) -> None:
    with pytest.raises(SettingError, match="thalweg: timeout must be a number of seconds, more than 0, got "):
        thalweg.compare("quadratic", ["gd"], budget="4trials", timeout=value)


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


def test_at_the_deadline_a_training_that_does_not_report_is_killed() -> None:
    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        time.sleep(100_000)

    requested = [Job((SGD,), (Trial({"lr": 0.1}, 0),), SCHEDULE, 0.1)]
    with WorkerPool(as_workload(as_task(train)), 1, pytest.fail) as pool:
        assert list(pool.run(requested, lambda *_: None, time.monotonic() + 0.1)) == []
        assert pool._slots[0].worker is None


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
