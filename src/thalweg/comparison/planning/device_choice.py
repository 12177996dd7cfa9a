"""Device choice: the device that the user requests, or the one that a measurement shows to be faster for this task."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.timing import Measurement, TimeLeft, unlimited
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.engine.core.threads import num_cores
from thalweg.errors import DeviceError

CLEARLY_FASTER = 1.25  # near a tie the clock would decide, differently each time
ONLY_CPU = "this machine has no other device"
_TRAININGS = 128  # whose time is compared: as many as the largest population has


@dataclass(frozen=True)
class DeviceChoice:
    """The device of a comparison.

    Attributes:
        device: ``"cpu"``; ``"cuda"`` for all devices of this kind; ``"cuda:1"`` for one of them; or ``"auto"`` if the
            user's code decides.
        reason: Reason for this device, in words, for the report.
        workload: The workload on the device, on its first one if there are several.
        measurements: Measurements of this workload on this device that were made on the way, by timing key.
        is_choice: True if there was more than one possible device.
    """

    device: str
    reason: str
    workload: Workload
    measurements: Mapping[Hashable, Measurement] = field(default_factory=dict)
    is_choice: bool = False


def usable_devices(device: str) -> list[str]:
    """Return the devices on which trainings of a comparison may run: all of a kind, or the one with this index.

    Args:
        device: The device as ``DeviceChoice`` has it.

    Raises:
        DeviceError: If there is none.
    """
    if device == devices.AUTO:
        return [device]
    first, parsed = devices.check(device), devices.parse(device)
    return list(map(str, devices.devices_of(parsed.type) if parsed.index is None else [first]))


def choose_device(
    workload: Workload,
    contenders: Sequence[Contender],
    requested: str,
    schedules: Mapping[str, TrainingSchedule],
    seed: int,
    *,
    num_workers: int | None = None,
    report: Callable[[str], None] = lambda name: None,
    time_left: TimeLeft = unlimited,
) -> DeviceChoice:
    """Choose the device of a comparison.

    An accelerator is chosen by itself if a training takes clearly less time there than on the CPU, all cores and all
    accelerators of the kind counted. One contender is measured on both.

    Args:
        workload: The task or training function, as the user made it.
        contenders: The contenders, at least one.
        requested: A device, or ``"auto"``.
        schedules: Length of a training, by contender.
        seed: Seed of the measurements.
        num_workers: Number of processes that the user requests; None if it is free.
        report: Called with the name of the contender that is measured.
        time_left: Returns the seconds that are left for measurements.

    Raises:
        DeviceError: If the requested device does not exist.
        TaskError: If the workload takes no device, and one is requested.
    """
    if requested != devices.AUTO:
        first = usable_devices(requested)[0]
        return DeviceChoice(requested, "requested", workload.on(first))
    if not workload.can_be_placed:
        reason = "the training function has no argument device, so it chooses by itself"
        return DeviceChoice(devices.AUTO, reason, workload)
    own = workload.own_device()
    if own.type != "cpu":
        return DeviceChoice(str(own), "the task makes its model there", workload.on(own))
    accelerator = next((device for device in devices.available() if device.type != "cpu"), None)
    if accelerator is None:
        return DeviceChoice("cpu", ONLY_CPU, workload.on("cpu"))
    if workload.record.is_function:
        reason = "not compared with the CPU: a training function can only be timed by whole trainings"
        return DeviceChoice(accelerator.type, reason, workload.on(accelerator), is_choice=True)
    # An elementwise rule of ours can train as a population; a full batch is no usual training.
    contender = min(contenders, key=lambda contender: (contender.thalweg_rule is None, contender.full_batch))
    report(contender.name)
    choice = _faster(workload, accelerator, contender, schedules[contender.name], seed, num_workers, time_left)
    return replace(choice, is_choice=True)


def _faster(
    workload: Workload,
    accelerator: torch.device,
    contender: Contender,
    schedule: TrainingSchedule,
    seed: int,
    num_workers: int | None,
    time_left: TimeLeft,
) -> DeviceChoice:
    """Measure a contender on an accelerator and on the CPU, and return the faster one."""
    key = workload.timing_key(contender)
    label = devices.hardware(accelerator)
    try:
        placed = workload.on(accelerator)
        on_accelerator = placed.measure(contender, schedule, seed, time_left)
    except (
        Exception
    ) as error:  # a driver that is too old, an operation that the device lacks, a task that does not move
        summary = str(error).partition("\n")[0][:200]
        return DeviceChoice("cpu", f"the task does not train on {label}: {summary}", workload.on("cpu"))
    if time_left() <= 0:
        reason = "the budget is too short to compare it with the CPU"
        return DeviceChoice(accelerator.type, reason, placed, {key: on_accelerator})
    accelerators = len(usable_devices(accelerator.type)) if num_workers is None else 1
    accelerator_s = _seconds_of_training(on_accelerator) / accelerators
    on_cpu = workload.on("cpu")
    if on_cpu.least_seconds(contender, schedule, seed) > CLEARLY_FASTER * accelerator_s:
        reason = "measured: steps on the CPU take so long that no way to train there can be as fast"
        return DeviceChoice(accelerator.type, reason, placed, {key: on_accelerator})
    measurement = on_cpu.measure(contender, schedule, seed, time_left)
    gain = (
        _seconds_of_training(measurement)
        / _gain_of_workers(on_cpu, contender, measurement, seed, num_workers)
        / accelerator_s
    )
    if gain >= CLEARLY_FASTER:
        reason = f"measured: {gain:.1f}x as fast as the CPU on this task"
        return DeviceChoice(accelerator.type, reason, placed, {key: on_accelerator})
    reason = f"measured: {label} would be {gain:.1f}x as fast on this task, not enough to matter"
    return DeviceChoice("cpu", reason, on_cpu, {key: measurement})


def _seconds_of_training(measurement: Measurement) -> float:
    return measurement.mode.seconds(_TRAININGS) / _TRAININGS


def _gain_of_workers(
    workload: Workload, contender: Contender, measurement: Measurement, seed: int, num_workers: int | None
) -> float:
    """Return how many times as fast the CPU may be with as many worker processes as will be used."""
    count = num_cores() if num_workers is None else num_workers
    if count < 2 or not workload.uses_workers:
        return 1.0
    return max(1.0, count / workload.single_thread_slowdown(contender, max(2, measurement.mode.members), seed))


def check_resumable(device: str, label: str) -> list[str]:
    """Return the usable devices of an unfinished comparison.

    Args:
        device: The device of its plan.
        label: Name of the store.

    Raises:
        DeviceError: If this machine has none of them.
    """
    try:
        return usable_devices(device)
    except DeviceError as error:
        raise DeviceError(
            f"{label}: the comparison was begun on {device}, and resumes there only: {str(error).partition(': ')[2]} "
            "Run it on such a machine, or request another device, which is another comparison."
        ) from error
