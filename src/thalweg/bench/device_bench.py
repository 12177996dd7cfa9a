"""The benchmark on a device: events, host times, waits, memory and graphs beside a copy in the same rounds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.bench import measure
from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.device_rounds import DeviceRounds, DeviceTimes
from thalweg.bench.floors import moved_bytes
from thalweg.bench.implementations import (
    COMPILED_STEP,
    MakeOptimizer,
    available_on,
    choose_baseline,
    is_other_library,
    select,
)
from thalweg.bench.records import Benchmark, Measurement, machine
from thalweg.bench.sets import SETS
from thalweg.optim.settings import keywords

COPY_BYTES = 512 * 1024**2  # larger than any cache


@dataclass(frozen=True)
class DeviceMeasurement(Measurement):
    """The measured cost of a step of one implementation on a device.

    Beside the attributes of ``Measurement``, whose times are here those of the device, between marks in its queue:

    Attributes:
        host_ms: Median time until the call of a step returns, in milliseconds, with an empty queue.
        waits: Waits for the device in a step, by torch's sync debug mode; None on devices that do not count them.
        of_floor: The floor of the rule divided by ``median_ms``; None if the rule has no floor.
    """

    host_ms: float
    waits: int | None
    of_floor: float | None


@dataclass(frozen=True)
class DeviceBenchmark(Benchmark):
    """One rule on one set of parameters, on a device.

    Beside the attributes of ``Benchmark``, whose bandwidth is here that of the copy in the same rounds:

    Attributes:
        device: The device.
        dtype: Dtype of the parameters and gradients.
        floor_ms: Time in which the device copies the bytes that the rule must move; None for rules without kernels.
        absent: Implementations that do not exist here, by name, with the reason.
        failed: Implementations that raised an error, by name, with its first line; out of memory is one.
    """

    device: str
    dtype: str
    floor_ms: float | None
    absent: dict[str, str]
    failed: dict[str, str]


def bench_on_device(
    meter: DeviceMeter,
    set_name: str,
    rule: str,
    *,
    rounds: int,
    dtype: torch.dtype = torch.float32,
    implementations: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
    copy_bytes: int | None = None,
) -> DeviceBenchmark:
    """Time the steps of a rule on a device. ``bench`` has the arguments; the names must exist.

    Args:
        meter: The device.
        set_name: Name of the parameters, from ``SETS``.
        rule: Name of the rule, from ``RULES``.
        rounds: Number of rounds, >= 2.
        dtype: Dtype of the parameters and gradients.
        implementations: Names from ``IMPLEMENTATIONS``. None means thalweg's and torch's, without those that take
            long to prepare.
        progress: Called with a message before each stage.
        copy_bytes: Size of the vector that is copied. Defaults to ``COPY_BYTES``.

    Returns:
        The measurements, and the implementations that are absent or failed.

    Raises:
        UnknownNameError: If an implementation does not exist here.
    """
    copy_bytes = copy_bytes or COPY_BYTES
    factories, absent = available_on(meter.device, rule)
    baseline = choose_baseline(factories)
    names = select(implementations, factories, baseline, rule, default=_is_default)
    shapes = SETS[set_name]()

    def report(message: str) -> None:
        progress(f"{set_name}, {rule}, {str(dtype).removeprefix('torch.')}: {message}")

    with meter.current():
        times, failed, baseline = _measure(
            DeviceRounds(meter, shapes, dtype, copy_bytes), {name: factories[name] for name in names}, rounds, report
        )
    copies = [seconds for measured in times.values() for seconds in measured.copy_s]
    bandwidth = 2 * copy_bytes / statistics.median(copies) if copies else 0.0
    moved = moved_bytes(_rule_of(factories["thalweg"]), shapes, dtype)
    floor_s = sum(moved) / bandwidth if moved and bandwidth else None
    return DeviceBenchmark(
        set=set_name,
        rule=rule,
        baseline=baseline,
        rounds=rounds,
        num_tensors=len(shapes),
        num_parameters=sum(torch.Size(shape).numel() for shape in shapes),
        bandwidth_gb_s=bandwidth / 1e9,
        machine=machine() | meter.describe(),
        measured=tuple(_measurement(name, measured, bandwidth, floor_s) for name, measured in times.items()),
        device=str(meter.device),
        dtype=str(dtype).removeprefix("torch."),
        floor_ms=None if floor_s is None else 1e3 * floor_s,
        absent=absent,
        failed=failed,
    )


def _is_default(name: str) -> bool:
    return not is_other_library(name) and name != COMPILED_STEP


def _measure(
    device_rounds: DeviceRounds, factories: dict[str, MakeOptimizer], rounds: int, progress: Callable[[str], None]
) -> tuple[dict[str, DeviceTimes], dict[str, str], str]:
    """Return times, failures and the baseline. If the baseline fails, the next implementation takes its part."""
    failed: dict[str, str] = {}
    remaining = dict(factories)
    first = baseline = choose_baseline(remaining)
    while remaining:
        baseline = choose_baseline(remaining)
        times = device_rounds.run(remaining, baseline, rounds, progress)
        failed |= device_rounds.failed
        if baseline not in device_rounds.failed:
            return times, failed, baseline
        remaining = {name: make for name, make in remaining.items() if name not in failed}
    return {}, failed, first


def _rule_of(make: MakeOptimizer) -> Any:
    """Return the rule of one of our optimizers at its settings."""
    optimizer: Any = make([torch.zeros(1, 1)])
    return keywords.to_rule(optimizer.rule, optimizer.param_groups[0])


def _measurement(name: str, times: DeviceTimes, bandwidth: float, floor_s: float | None) -> DeviceMeasurement:
    ratio, low, high = measure.ratio_of_medians(times.device_s, times.baseline_s)
    median_s = statistics.median(times.device_s)
    moved_bytes_s = times.moved_bytes / median_s
    return DeviceMeasurement(
        name=name,
        median_ms=1e3 * median_s,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        dispatches=times.dispatches,
        peak_extra_mb=None if times.peak_extra_bytes is None else times.peak_extra_bytes / 1e6,
        compilations=times.compilations,
        moved_gb_s=moved_bytes_s / 1e9,
        of_bandwidth=moved_bytes_s / bandwidth,
        host_ms=1e3 * statistics.median(times.host_s),
        waits=times.waits,
        of_floor=None if floor_s is None else floor_s / median_s,
    )
