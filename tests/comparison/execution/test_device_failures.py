"""Workers on devices that fail or are lost, with a fake accelerator in the place of CUDA."""

import pickle
import threading
from dataclasses import replace
from typing import Any

import cloudpickle
import pytest
from torch import nn

from cases.fake_accelerator import FakeAccelerator, FakeDeviceModel
from tests.comparison.device_task import ADAM, FAKE, SCHEDULE, small
from thalweg.comparison.execution import worker_pool
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.processes import slots
from thalweg.comparison.processes.serving import Reply
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import devices
from thalweg.errors import TaskError


def job(*seeds: int) -> Job:
    return Job((ADAM,) * len(seeds), tuple(Trial({"lr": 0.01}, seed) for seed in seeds), SCHEDULE, 0.1)


def run(pool: WorkerPool, jobs: list[Job]) -> dict[int, tuple[str, str, str]]:
    """Return status, hardware and message of each training, by seed."""
    ended = {}
    for done, results in pool.run(jobs, lambda job, share: None):
        for trial, result in zip(done.trials, results, strict=True):
            ended[trial.seed] = (result.status, result.hardware, result.message.partition(" (at ")[0])
    return ended


@pytest.fixture
def _no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine workers may take minutes to start."""
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 1e4)


def test_out_of_memory_is_a_result_and_the_next_trials_run(fake: FakeAccelerator) -> None:
    workload = as_workload(small(model=FakeDeviceModel(1, out_of_memory_at=[2])))
    with WorkerPool(workload, 1, pytest.fail, ["cuda:0"]) as pool:
        ended = run(pool, [job(1), job(2), job(3), job(2, 4)])
    message = f"{FAKE} is out of memory: CUDA out of memory"
    assert ended == {1: ("ok", FAKE, ""), 2: ("failed", FAKE, message), 3: ("ok", FAKE, ""), 4: ("ok", FAKE, "")}
    assert fake.releases == 3  # a single training, a population, and its member


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace worker processes by this one, with a fake of its own for each; list the device of each process."""
    started: list[str] = []

    class Process:
        def __init__(self, target: Any, **_: Any) -> None:
            started.append(target.device)
            self._target = pickle.loads(cloudpickle.dumps(target))

        def send(self, request: bytes) -> None:
            here = devices.ACCELERATORS["cuda"]
            monkeypatch.setitem(devices.ACCELERATORS, "cuda", FakeAccelerator(here.count()))
            result = self._target(pickle.loads(request), lambda share: None)
            self._reply = result if isinstance(result, Reply) else Reply("done", result)
            monkeypatch.setitem(devices.ACCELERATORS, "cuda", here)

        def receive(self) -> Reply:
            return self._reply

        def kill(self) -> None:
            pass

    monkeypatch.setattr(worker_pool, "Worker", Process)
    monkeypatch.setattr(slots, "wait_for_replies", lambda workers, timeout_s: list(workers))
    return started


FAILED = ("failed", "cuda:0", "RuntimeError: CUDA error: an illegal memory access was encountered")


def test_a_device_that_is_lost_in_this_process_trains_on_in_a_worker(
    fake: FakeAccelerator, processes: list[str]
) -> None:
    notices: list[str] = []
    workload = as_workload(small(model=FakeDeviceModel(1, lost_at=[2, 5])))
    with WorkerPool(workload, 1, notices.append, ["cuda:0"]) as pool:
        ended = run(pool, [job(1), job(2), job(3), job(5, 4, 6)])
        assert run(pool, [job(7)]) == {7: ("ok", FAKE, "")}
    assert ended == dict.fromkeys((1, 3, 4, 6), ("ok", FAKE, "")) | dict.fromkeys((2, 5), FAILED)
    assert notices == ["cuda:0 fails in this process; other trainings run in a worker process"]
    assert len(processes) == 3  # the first, one after the population, one after its failing member


def test_a_population_that_loses_the_device_here_is_trained_one_by_one_elsewhere(
    fake: FakeAccelerator, processes: list[str]
) -> None:
    workload = as_workload(small(model=FakeDeviceModel(1, lost_at=[5])))
    with WorkerPool(workload, 1, lambda message: None, ["cuda:0"]) as pool:
        assert run(pool, [job(5, 4, 6)]) == dict.fromkeys((4, 6), ("ok", FAKE, "")) | {5: FAILED}
    assert len(processes) == 2


def test_a_worker_that_has_lost_its_device_is_replaced(fake: FakeAccelerator, processes: list[str]) -> None:
    fake.number = 2
    workload = as_workload(small(model=FakeDeviceModel(2, lost_at=[2])))
    with WorkerPool(workload, 2, pytest.fail, ["cuda:0", "cuda:1"]) as pool:
        ended = run(pool, [job(seed) for seed in range(6)])
    assert ended[2] == FAILED
    assert {ended[seed][0] for seed in (0, 1, 3, 4, 5)} == {"ok"}
    assert sorted(processes) in (["cuda:0", "cuda:0", "cuda:1"], ["cuda:0", "cuda:1", "cuda:1"])


@pytest.mark.usefixtures("_no_timeout")
def test_each_gpu_has_a_worker_process(fake: FakeAccelerator) -> None:
    fake.number = 2
    workload = as_workload(small(model=FakeDeviceModel(2, lost_at=[2])))
    jobs = [*(job(seed) for seed in (0, 1, 3)), replace(job(2), predicted_s=0.01)]  # the last is lost, in a worker
    with WorkerPool(workload, 2, pytest.fail, ["cuda:0", "cuda:1"]) as pool:
        ended = run(pool, jobs)
    assert ended[2] == FAILED
    assert {ended[seed][:2] for seed in (0, 1, 3)} == {("ok", "cuda Fake 0"), ("ok", "cuda Fake 1")}
    assert fake.moved == []  # this process has placed nothing


def test_a_task_that_cannot_be_sent_to_a_worker_says_that_it_can_be_resumed(fake: FakeAccelerator) -> None:
    model, lock = FakeDeviceModel(1, lost_at=[2]), threading.Lock()

    def make() -> nn.Module:
        with lock:  # cannot be pickled
            return model()

    with (
        WorkerPool(as_workload(small(model=make)), 1, lambda message: None, ["cuda:0"]) as pool,
        pytest.raises(
            TaskError, match="small: it must be possible to train in a worker process, got .* again to resume"
        ),
    ):
        run(pool, [job(2), job(3)])
