"""Trainings on devices and their measurement, with a fake accelerator in the place of CUDA."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from cases.fake_accelerator import FakeAccelerator
from tests.comparison.device_task import ADAM, SCHEDULE, small
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training import timing
from thalweg.comparison.training.computation.group_means import measure_in_groups
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import threads
from thalweg.errors import DeviceError, TaskError
from thalweg.tasks import Splits, TrainingFunction, load


def losses(task: thalweg.Task, members: int = 1) -> list[tuple[float, ...]]:
    trials = [Trial({"lr": 0.01}, seed) for seed in range(members)]
    results = as_workload(task).train(ADAM, trials, SCHEDULE)
    assert {result.status for result in results} == {"ok"}
    return [(result.train, result.validation, result.test, result.test_error) for result in results]


@pytest.mark.parametrize("members", [1, 3])
def test_trainings_on_the_cpu_are_those_of_before_devices(members: int) -> None:
    # Recorded before tasks had devices; other machines round the last digits differently.
    recorded = [
        (1.94933879, 2.00218272, 1.9709928, 0.0190318339),
        (1.86004686, 1.87996197, 1.8632381, 0.0124703459),
        (1.97094333, 2.003829, 1.97793579, 0.0135213584),
    ]
    task, schedule = load("digits"), TrainingSchedule(12, "linear", 2)
    trials = [Trial({"lr": 0.01}, seed) for seed in range(members)]
    for placed in (task, task.on("cpu")):
        results = as_workload(placed).train(ADAM, trials, schedule)
        values = [(result.train, result.validation, result.test, result.test_error) for result in results]
        assert values == [pytest.approx(expected, rel=1e-5) for expected in recorded[:members]]
    assert losses(small(), members) == losses(small().on("cpu"), members)


@pytest.mark.parametrize("members", [1, 3])
def test_a_seed_gives_the_same_weights_and_batches_on_every_device(fake: FakeAccelerator, members: int) -> None:
    # Evaluation in one batch rounds differently.
    assert losses(small().on("cuda"), members) == [
        pytest.approx(values, rel=1e-5) for values in losses(small(), members)
    ]
    assert [device for kind, device in fake.moved if kind == "Linear"] == ["cuda:0"] * members


def test_data_are_read_once_and_moved_once_to_each_device(fake: FakeAccelerator) -> None:
    fake.number, reads = 2, []
    x = torch.ones(50, 3)

    def data() -> Any:
        reads.append(1)
        return x, x.sum(1, True)

    task = small(data=data)
    first, second = task.on("cuda"), task.on("cuda:1")
    for placed in (first, second, task.on("cuda"), first.on("cuda"), task):
        assert len(placed.splits.train[0]) == 30
    assert reads == [1]
    assert fake.moved == [("Tensor", "cuda:0")] * 6 + [("Tensor", "cuda:1")] * 6
    assert first.on("auto") is task
    assert task.on("cuda") is first


def test_batches_of_loaders_are_placed_as_they_are_read(fake: FakeAccelerator) -> None:
    x = torch.ones(6, 3)
    loaders = Splits(*(DataLoader(TensorDataset(x, x.sum(1, True)), batch_size=3) for _ in range(3)))
    task = small(data=loaders).on("cuda")
    assert (len(task.splits.train), task.splits.train.batch_size, task.batches_per_pass()) == (2, 3, 2)
    losses(task)
    assert fake.moved.count(("Tensor", "cuda:0")) >= 2 * 4


def test_tensors_that_splits_share_are_moved_once(fake: FakeAccelerator) -> None:
    splits = load("noisy-quadratic").on("cuda").splits
    assert splits.train[0] is splits.test[0]
    assert len(fake.moved) == 1


def test_a_device_that_is_missing_is_an_error_when_it_is_used() -> None:
    task = small(device="cuda:7")
    with pytest.raises(DeviceError, match="the device must exist, got 'cuda:7'"):
        task.make_model(0)
    with pytest.raises(DeviceError, match="a device must be cpu, cuda"):
        small(device="gpu")


def test_a_training_function_is_told_its_device(fake: FakeAccelerator) -> None:
    told = []

    def train(make_optimizer: Any, report: Any, device: Any) -> None:
        told.append(device)
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(1.0)

    def untold(make_optimizer: Any, report: Any) -> None:
        raise AssertionError

    for device in ("auto", "cpu", "cuda"):
        as_workload(TrainingFunction(train=train).on(device)).train(ADAM, [Trial({}, 0)], SCHEDULE)
    assert told == [torch.device("cpu"), torch.device("cpu"), torch.device("cuda:0")]
    with pytest.raises(TaskError, match="must take an argument device to train on cuda, got"):
        TrainingFunction(train=untold, device="cuda")
    assert not thalweg.tasks.as_task(untold).is_told_device
    assert thalweg.tasks.as_task(train).is_told_device


def test_a_block_of_calls_is_timed_until_the_device_has_done_it(
    fake: FakeAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 1 ms of Python, and leaves 4 ms of work to the device, for which only a wait waits."""
    clock, queue = [0.0], [0.0]

    def action() -> None:
        clock[0] += 0.001
        queue[0] = max(queue[0], clock[0]) + 0.004

    def synchronize(device: torch.device) -> None:
        clock[0] = max(clock[0], queue[0])

    monkeypatch.setattr(fake, "synchronize", synchronize)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    seconds = timing.seconds_of(action, device=torch.device("cuda:0"))
    assert seconds == pytest.approx(0.004, rel=0.06)  # the first call of a block of 6 starts 1 ms late


def test_an_accelerator_evaluates_in_one_batch_or_in_as_few_as_its_memory_allows(fake: FakeAccelerator) -> None:
    x = torch.arange(100.0).unsqueeze(1)
    task = small(model=lambda: nn.Linear(1, 1), data=Splits((x, x), (x, x), (x, x)))
    sizes: list[int] = []

    def measure(batch: Any, room: int = 100) -> torch.Tensor:
        sizes.append(len(batch[0]))
        if len(batch[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch[0].mean()

    assert measure_in_groups(task.on("cuda"), "train", measure, 16).mean() == pytest.approx(49.5)
    assert sizes == [100]
    sizes.clear()
    assert measure_in_groups(task.on("cuda"), "train", lambda batch: measure(batch, 30), 16).mean() == pytest.approx(
        49.5
    )
    assert sizes == [100, 50, 25, 25, 25, 25]
    assert fake.releases == 2
    sizes.clear()
    measure_in_groups(task.on("cuda"), "test", measure, 256)
    assert sizes == [4] * 25
    sizes.clear()
    measure_in_groups(task, "train", measure, 16)
    assert sizes == [16] * 6 + [4]
    with pytest.raises(torch.OutOfMemoryError):
        measure_in_groups(task.on("cuda"), "train", lambda batch: measure(batch, 0), 16)


def test_the_least_time_counts_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(timing, "MAX_STACKED_PARAMETERS", 0)  # no gain of a population
    least = []
    for cores in (1, 4):
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        least.append(timing.least_seconds(small(), ADAM, SCHEDULE, seed=0))
    assert least == [4.0, 1.0]  # 4 steps of a second each, on one core and on four
