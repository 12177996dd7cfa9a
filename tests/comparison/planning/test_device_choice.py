"""The choice of the device, with a fake accelerator in the place of CUDA."""

from collections.abc import Callable
from typing import Any

import pytest

import thalweg
from cases.fake_accelerator import FakeAccelerator, FakeDeviceModel
from tests.comparison.device_task import ADAM, FAKE, SCHEDULE, small
from thalweg.comparison.planning.device_choice import choose_device
from thalweg.comparison.planning.num_workers import choose_num_workers
from thalweg.comparison.training.timing import ExecutionMode, Measurement
from thalweg.comparison.training.workload import as_workload
from thalweg.engine.core import devices, threads
from thalweg.errors import DeviceError
from thalweg.tasks import TrainingFunction


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
