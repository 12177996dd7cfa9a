"""Comparisons on devices, with a fake accelerator in the place of CUDA."""

import pickle
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from cases.fake_accelerator import FakeAccelerator, FakeDeviceModel
from thalweg.comparison import CONTENDERS, Progress, Store
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution import worker_pool
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.planning.device_choice import choose_device
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.processes import slots
from thalweg.comparison.processes.serving import Reply
from thalweg.comparison.training import timing
from thalweg.comparison.training.computation.group_means import measure_in_groups
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import ExecutionMode, Measurement
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import devices, threads
from thalweg.errors import DeviceError, TaskError
from thalweg.tasks import Splits, TrainingFunction, load

SCHEDULE = TrainingSchedule(steps=4, schedule="linear", num_evaluations=2)
ADAM = CONTENDERS["adam"]
FAKE = "cuda Fake 0"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    accelerator = FakeAccelerator()
    monkeypatch.setitem(devices.ACCELERATORS, "cuda", accelerator)
    return accelerator


def small(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1), **changes: Any) -> thalweg.Task:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    parts: dict[str, Any] = {"data": (x, x.sum(1, True)), "passes": 1, "name": "small"}
    return thalweg.Task(model=model, loss=thalweg.supervised(nn.functional.mse_loss), **(parts | changes))


def losses(task: thalweg.Task, members: int = 1) -> list[tuple[float, ...]]:
    trials = [Trial({"lr": 0.01}, seed) for seed in range(members)]
    results = as_workload(task).train(ADAM, trials, SCHEDULE)
    assert {result.status for result in results} == {"ok"}
    return [(result.train, result.validation, result.test, result.test_error) for result in results]


# --- tasks ------------------------------------------------------------------------------------------------------------


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


# --- measuring --------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Made-up seconds of a training, by kind of device; the choice is tested and not the load of this machine."""
    seconds = {"cuda": 1.0, "cpu": 10.0, "least": 0.0}

    def measure(task: thalweg.Task, *_: object) -> Measurement:
        device = (task.placed_on or devices.CPU).type
        if seconds[device] < 0:
            raise RuntimeError("an operation is missing\nand more")
        return Measurement(ExecutionMode(1, 0.0, seconds[device], "made up"), {}, 4)

    monkeypatch.setattr("thalweg.comparison.training.timing.measure_task", measure)
    monkeypatch.setattr("thalweg.comparison.training.timing.least_seconds", lambda *_: seconds["least"])
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr("thalweg.comparison.training.timing.single_thread_slowdown", lambda *_: 1.0)
    return seconds


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({"cpu": 10.0}, "cuda", "measured: 5.0x as fast as the CPU on this task"),  # on two cores
        ({"cpu": 2.51}, "cuda", "measured: 1.3x as fast as the CPU on this task"),
        ({"cpu": 2.49}, "cpu", f"measured: {FAKE} would be 1.2x as fast on this task, not enough to matter"),
        ({"cpu": 0.5}, "cpu", f"measured: {FAKE} would be 0.2x as fast on this task, not enough to matter"),
        ({"cuda": -1.0}, "cpu", f"the task does not train on {FAKE}: an operation is missing"),
        ({"least": 1.26, "cpu": -1.0}, "cuda", "measured: steps on the CPU take so long that no way to train there"),
    ],
)
def test_the_faster_device_is_chosen_and_the_reason_said(
    fake: FakeAccelerator, times: dict[str, float], changes: dict[str, float], device: str, reason: str
) -> None:
    times |= changes
    choice = choose_device(as_workload(small()), [ADAM], "auto", {"adam": SCHEDULE}, 0)
    assert choice.device == device
    assert choice.reason.startswith(reason)
    assert choice.workload.device.type == device
    measured = [measurement.mode.member_s for measurement in choice.measurements.values()]
    assert measured == ([] if changes.get("cuda") else [times[device]])


def test_the_gain_of_workers_and_of_several_gpus_counts(fake: FakeAccelerator, times: dict[str, float]) -> None:
    def chosen(cpu_s: float, **options: Any) -> str:
        times["cpu"] = cpu_s
        return choose_device(as_workload(small()), [ADAM], "auto", {"adam": SCHEDULE}, 0, **options).device

    assert chosen(2.4) == "cpu"
    assert chosen(2.4, num_workers=1) == "cuda"  # no second core helps
    fake.number = 2
    assert chosen(2.4) == "cuda"


def test_no_measurement_without_a_choice(fake: FakeAccelerator, times: dict[str, float]) -> None:
    def told(make_optimizer: Any, report: Any, device: Any) -> None: ...
    def untold(make_optimizer: Any, report: Any) -> None: ...

    times |= {"cpu": -1.0, "cuda": -1.0}  # measuring would raise

    def chosen(task: Any, requested: str = "auto") -> tuple[str, bool]:
        choice = choose_device(as_workload(task), [ADAM], requested, {"adam": SCHEDULE}, 0)
        return choice.device, choice.is_choice

    assert chosen(small(), "cpu") == ("cpu", False)
    assert chosen(small(), "cuda") == ("cuda", False)
    assert chosen(TrainingFunction(train=told)) == ("cuda", True)
    assert chosen(TrainingFunction(train=untold)) == ("auto", False)
    fake.number = 0
    assert chosen(small()) == ("cpu", False)
    with pytest.raises(DeviceError, match=r"This machine has cpu\."):
        chosen(small(), "cuda")


# --- whole comparisons ------------------------------------------------------------------------------------------------


def compare(task: thalweg.Task, store: Path | None, **options: Any) -> tuple[thalweg.Comparison, list[Progress]]:
    events: list[Progress] = []
    result = thalweg.compare(
        task, ["torch.optim:Adam"], budget="2trials", store=store, workers=1, watch=events.append, **options
    )
    return result, [event for event in events if event.message]


def test_a_comparison_runs_on_a_device_and_says_so(fake: FakeAccelerator, tmp_path: Path) -> None:
    result, _ = compare(small(), tmp_path, device="cuda")
    assert result.plan.device == "cuda"
    assert {trial.result.hardware for trial in result.store.trials(1)} == {FAKE}
    assert result.device == f"trained on {FAKE} (requested)"
    assert result.to_json()["device"] == {"name": "cuda", "reason": "requested", "hardware": [FAKE]}
    assert result.record.environment["device"] == FAKE
    assert f"<dd>{result.device}</dd>" in result.report(tmp_path / "report.html").read_text()
    assert fake.synchronizations > 10
    # The device belongs to the key: on the CPU it is another comparison, of the same losses.
    on_cpu, _ = compare(small(device="cpu"), tmp_path)
    assert on_cpu.record.id == 2
    values = [
        [trial.result.test for trial in compared.store.trials(number)]
        for number, compared in enumerate((result, on_cpu), 1)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    # A finished comparison is shown where there is no such device.
    fake.number = 0
    again, messages = compare(small(), tmp_path, device="cuda")
    assert (again.record.id, messages) == (1, [])


def test_a_comparison_chooses_by_measurement_and_keeps_its_choice(
    fake: FakeAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(action: object, total_s: float = 1.0, device: torch.device = devices.CPU) -> float:
        return 1e-5 if device.type == "cuda" else 0.1

    monkeypatch.setattr(timing, "seconds_of", made_up)
    monkeypatch.setattr(timing, "least_seconds", lambda *_: 0.0)
    result, messages = compare(small(), None)
    assert result.plan.device == "cuda"
    assert [message.message for message in messages] == [f"device: cuda ({result.plan.device_reason})"]
    assert "as fast as the CPU" in result.plan.device_reason or "no way to train there" in result.plan.device_reason


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


class StopTraining(Exception):  # noqa: N818
    """Ends a comparison as an interrupt does."""


def interrupted(store: Path, trainings: int = 2) -> None:
    def watch(progress: Progress) -> None:
        if progress.done >= trainings:
            raise StopTraining

    with pytest.raises(StopTraining):
        thalweg.compare(
            small(), ["torch.optim:Adam"], budget="2trials", store=store, workers=1, device="cuda", watch=watch
        )


def test_a_device_that_has_vanished_is_named_and_the_comparison_resumes_where_it_is(
    fake: FakeAccelerator, tmp_path: Path
) -> None:
    interrupted(tmp_path / "store.sqlite")
    fake.number = 0
    with pytest.raises(
        DeviceError,
        match=r"store.sqlite: the comparison was begun on cuda, and resumes there only: .* has cpu\..* Run it on",
    ):
        compare(small(), tmp_path / "store.sqlite", device="cuda")
    fake.number = 1
    result, messages = compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert (result.record.id, messages) == (1, [])
    assert not any("hardware" in caution for caution in result.cautions)


def test_other_hardware_of_the_same_kind_is_said(
    fake: FakeAccelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "store.sqlite")
    monkeypatch.setattr(fake, "name", lambda device: "Another")
    result, messages = compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert [message.message for message in messages] == [f"resumed on other hardware: {FAKE} before, cuda Another now"]
    assert any(
        caution.startswith(f"Trainings ran on different hardware: cuda Another and {FAKE}.")
        for caution in result.cautions
    )


# --- failures ---------------------------------------------------------------------------------------------------------


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


def test_two_gpus_are_two_workers_in_the_plan(fake: FakeAccelerator, times: dict[str, float]) -> None:
    fake.number = 2
    modes = {"adam": ExecutionMode(1, 0.0, 1.0, "one by one")}
    workload = as_workload(small(model=FakeDeviceModel(2)).on("cuda"))
    choose = device_choice_workers(workload, modes)
    assert choose("cuda", 1000.0) == (2, 0.5, "one by one, in 2 processes on 2 devices")
    assert choose("cuda:1", 1000.0) == (1, 1.0, "one by one")
    assert choose("cuda", 1.0) == (1, 1.0, "one by one")  # not worth starting processes


def device_choice_workers(workload: Any, modes: dict[str, ExecutionMode]) -> Callable[[str, float], tuple]:
    def choose(device: str, planned_s: float) -> tuple[int, float, str]:
        count, chosen = choose_num_workers(workload, [ADAM], modes, planned_s, 0, requested=None, device=device)
        return count, chosen["adam"].member_s, chosen["adam"].reason

    return choose


def test_a_smaller_machine_resumes_with_fewer_workers(
    fake: FakeAccelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "store.sqlite")
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute(
            "UPDATE comparisons SET checksum = 'none', plan = json_set(plan, '$.workers', 4, '$.num_devices', 4)"
        )
    connection.close()
    counts: list[int] = []
    start = WorkerPool.__init__

    def spy(self: WorkerPool, workload: Any, num_workers: int, *rest: Any) -> None:
        counts.append(num_workers)
        start(self, workload, num_workers, *rest)

    monkeypatch.setattr(WorkerPool, "__init__", spy)
    compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert counts == [1]
    assert Store(tmp_path / "store.sqlite", write=False).find().plan.num_workers == 4
