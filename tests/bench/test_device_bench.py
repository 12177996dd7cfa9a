"""The benchmark on a device, with a virtual device whose every step takes a known time."""

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from thalweg import bench, rules
from thalweg.bench import device_bench, device_rounds, implementations
from thalweg.bench.device_bench import bench_on_device
from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.device_rounds import DeviceRounds
from thalweg.bench.floors import moved_bytes
from thalweg.cli.main import cli
from thalweg.errors import DeviceError, SettingError, UnknownNameError

COPY_BYTES = 4000
COPY_S = 1e-6
SHAPES = [(64, 64), (64,)] * 3
AHEAD_S = 4e-3
HOST_S, DEVICE_S = 1e-4, {"first": 2e-3, "second": 3e-3, "large": 1e-3}


class VirtualMeter(DeviceMeter):
    """A device with a queue: the host goes on at once, and the device works until ``busy_until``.

    Attributes:
        now: The time of the host, in seconds.
        busy_until: The time at which the queue is empty.
        most: The number of optimizers for which there is memory.
    """

    def __init__(self, most: int = 100) -> None:
        self.device = torch.device("cpu")
        self.now = self.busy_until = 0.0
        self.most, self.alive = most, 0
        self.peak_bytes = 0

    def current(self) -> Any:
        return nullcontext()

    def work(self, seconds: float) -> None:
        self.now = max(self.now, self.busy_until - AHEAD_S) + HOST_S  # the host waits if the queue is full
        self.busy_until = max(self.now, self.busy_until) + seconds

    def synchronize(self) -> None:
        self.now = max(self.now, self.busy_until)

    def event(self) -> "VirtualEvent":
        return VirtualEvent(self)

    def peak_extra_bytes(self, function: Callable[[], None]) -> int:
        function()
        return 3_000_000

    def count_waits(self, function: Callable[[], None]) -> int:
        function()
        return 2

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        return function

    def describe(self) -> dict[str, Any]:
        return {"gpu": "virtual"}


class VirtualEvent:
    def __init__(self, meter: VirtualMeter) -> None:
        self._meter = meter

    def record(self) -> None:
        self.passed_s = max(self._meter.now, self._meter.busy_until)

    def elapsed_time(self, end: "VirtualEvent", /) -> float:
        assert self._meter.now >= end.passed_s, "the device has not passed the mark"
        return 1e3 * (end.passed_s - self.passed_s)


class VirtualOptimizer(torch.optim.Optimizer):
    """An optimizer whose step takes a known time on the virtual device."""

    def __init__(self, meter: VirtualMeter, name: str, params: Any, fails_at: int = -1) -> None:
        super().__init__(params, {})
        if meter.alive == meter.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        self._meter, self._name, self._steps, self._fails_at = meter, name, 0, fails_at
        meter.alive += 1

    def __del__(self) -> None:
        if hasattr(self, "_meter"):
            self._meter.alive -= 1

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._steps += 1
        if self._steps == self._fails_at:
            raise RuntimeError("it broke\nat some step")
        self._meter.work(DEVICE_S[self._name])


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> VirtualMeter:
    virtual = VirtualMeter()
    monkeypatch.setattr(device_rounds.time, "perf_counter", lambda: virtual.now)
    monkeypatch.setattr(DeviceRounds, "copy", lambda self: virtual.work(COPY_S))
    monkeypatch.setitem(bench.SETS, "small", lambda: SHAPES)
    return virtual


def factories(meter: VirtualMeter, **fails_at: int) -> dict[str, Callable[[Any], Any]]:
    return {
        name: lambda params, name=name: VirtualOptimizer(meter, name, params, fails_at.get(name, -1))
        for name in DEVICE_S
    }


def measure(
    meter: VirtualMeter, makes: dict[str, Any], baseline: str = "first"
) -> tuple[dict[str, Any], dict[str, str]]:
    rounds = DeviceRounds(meter, SHAPES, torch.float32, COPY_BYTES)
    return rounds.run(makes, baseline, 5, lambda message: None), rounds.failed


def test_times_are_those_of_the_device_and_of_the_call_alone(meter: VirtualMeter) -> None:
    times, failed = measure(meter, factories(meter))
    assert not failed
    for name, measured in times.items():
        # The first of the steps waits for its call, and all others follow without a gap.
        expected = DEVICE_S[name] + HOST_S / measured.steps
        assert measured.device_s == pytest.approx([expected] * 5)
        assert measured.host_s == pytest.approx([HOST_S] * 25)
        assert measured.copy_s == pytest.approx([COPY_S + HOST_S] * 5)
        assert measured.baseline_s == times["first"].device_s
        assert (measured.waits, measured.peak_extra_bytes) == (2, 3_000_000)
    assert times["first"].steps == 4


def test_what_does_not_fit_into_memory_is_measured_in_another_session_with_the_baseline(meter: VirtualMeter) -> None:
    meter.most = 2
    times, failed = measure(meter, factories(meter))
    assert list(times) == ["first", "second", "large"]
    assert not failed
    assert times["large"].baseline_s == pytest.approx(times["first"].device_s)
    meter.most = 1
    times, failed = measure(meter, factories(meter))
    assert list(times) == ["first"]
    assert failed == dict.fromkeys(("second", "large"), "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB")


@pytest.mark.parametrize("step", [1, 40])
def test_an_implementation_that_raises_is_left_out_with_the_reason(meter: VirtualMeter, step: int) -> None:
    times, failed = measure(meter, factories(meter, second=step))
    assert list(times) == ["first", "large"]
    assert failed == {"second": "RuntimeError: it broke"}
    assert len(times["large"].device_s) == 5


@pytest.mark.parametrize("step", [1, 40])
def test_the_next_implementation_is_the_baseline_if_the_first_fails(
    meter: VirtualMeter, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = factories(meter, first=step) | {"thalweg": lambda params: torch.optim.SGD(params)}
    del makes["large"]
    named = {"torch fused": makes["first"], "thalweg": makes["thalweg"], "torch foreach": makes["second"]}
    monkeypatch.setattr(device_bench, "available_on", lambda device, rule: (named, {"flashoptim": "not installed"}))
    monkeypatch.setattr(device_bench, "_rule_of", lambda make: rules.AdamW())
    benchmark = bench_on_device(
        meter, "small", "adamw", rounds=3, implementations=["torch foreach"], copy_bytes=COPY_BYTES
    )
    assert benchmark.baseline == "torch foreach"
    assert [measurement.name for measurement in benchmark.measured] == ["torch foreach"]
    assert benchmark.failed == {"torch fused": "RuntimeError: it broke"}
    assert benchmark.absent == {"flashoptim": "not installed"}
    (measurement,) = benchmark.measured
    numbers = 3 * (64 * 64 + 64)
    assert benchmark.bandwidth_gb_s == pytest.approx(2 * COPY_BYTES / (COPY_S + HOST_S) / 1e9)
    assert benchmark.floor_ms == pytest.approx(1e-6 * 28 * numbers / benchmark.bandwidth_gb_s)  # 28 bytes for AdamW
    assert measurement.ratio == 1.0
    assert measurement.of_floor == pytest.approx(benchmark.floor_ms / measurement.median_ms)
    assert measurement.moved_gb_s * measurement.median_ms == pytest.approx(12 * numbers / 1e6)  # it has no state
    assert (measurement.host_ms, measurement.peak_extra_mb) == (pytest.approx(1e3 * HOST_S), 3.0)


def test_nothing_measured_is_a_result_too(meter: VirtualMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    meter.most = 0
    makes = {"thalweg": factories(meter)["first"]}
    monkeypatch.setattr(device_bench, "available_on", lambda device, rule: (makes, {}))
    monkeypatch.setattr(device_bench, "_rule_of", lambda make: rules.AdamW())
    benchmark = bench_on_device(meter, "small", "adamw", rounds=3, copy_bytes=COPY_BYTES)
    assert (benchmark.measured, benchmark.floor_ms) == ((), None)
    assert benchmark.failed["thalweg"].startswith("OutOfMemoryError")


def test_a_captured_step_is_replayed(meter: VirtualMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(function: Callable[[], None]) -> Callable[[], None]:
        calls.append("recorded")
        return lambda: meter.work(1e-3)

    monkeypatch.setattr(meter, "record", record)
    makes = {"first": factories(meter)["first"], "thalweg captured": factories(meter)["second"]}
    times, _ = measure(meter, makes)
    assert calls == ["recorded"]
    assert times["thalweg captured"].device_s == pytest.approx([1e-3 + HOST_S / 4] * 5)


class FakeCuda:
    """The functions of `torch.cuda` that a meter calls, with a log."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.mode = "default"
        self.allocated = self.peak = 1000

    def synchronize(self, device: torch.device) -> None:
        self.log.append("synchronize")

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.allocated

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak

    def set_sync_debug_mode(self, mode: str) -> None:
        if mode == "warn":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        self.mode = mode


def test_waits_and_memory_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    meter = DeviceMeter(torch.device("cuda", 0))

    def step() -> None:
        if fake.mode == "warn":
            for _ in range(3):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        fake.peak += 64

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert meter.count_waits(step) == 3
    assert fake.mode == "default"
    fake.log.clear()
    assert meter.peak_extra_bytes(step) == 64
    assert fake.log == ["synchronize", "synchronize"]

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        meter.count_waits(fail)
    assert fake.mode == "default"
    assert DeviceMeter(torch.device("mps")).count_waits(step) is None
    assert DeviceMeter(torch.device("mps")).peak_extra_bytes(step) is None
    with pytest.raises(DeviceError, match="bench: only cuda has graphs, got xpu"):
        DeviceMeter(torch.device("xpu", 0)).record(step)


def test_a_device_that_does_not_exist_and_a_dtype_that_is_not_possible_are_errors() -> None:
    with pytest.raises(DeviceError, match=r"the device must exist, got 'cuda:63'\. This machine has"):
        bench.bench("small", "adamw", device="cuda:63")
    with pytest.raises(DeviceError, match="a device must be cpu, cuda"):
        bench.bench("small", "adamw", device="gpu")
    with pytest.raises(SettingError, match="dtype must be float32 on the CPU, got torch.bfloat16"):
        bench.bench("small", "adamw", dtype=torch.bfloat16)
    with pytest.raises(UnknownNameError, match="no implementation 'torch foreach' of lion here"):
        bench.bench("small", "lion", implementations=["torch foreach"])
    result = CliRunner().invoke(cli, ["bench", "--device", "cuda:63"])
    assert isinstance(result.exception, DeviceError | SystemExit)


def test_the_command_prints_times_of_host_and_device_and_what_is_missing(
    meter: VirtualMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = {"torch fused": factories(meter)["first"], "thalweg": factories(meter)["second"]}
    makes["torch loop"] = factories(meter, large=1)["large"]
    monkeypatch.setattr(device_bench, "available_on", lambda device, rule: (makes, {"flashoptim": "not installed"}))
    monkeypatch.setattr(device_bench, "_rule_of", lambda make: rules.AdamW())
    module = sys.modules["thalweg.bench.bench"]  # the package has the function of this name
    monkeypatch.setattr(module, "DeviceMeter", lambda device: meter)
    monkeypatch.setattr(module.devices, "check", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(device_bench, "COPY_BYTES", COPY_BYTES)
    arguments = ["bench", "--device", "cuda", "--set", "small", "--rule", "adamw", "--rounds", "3"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "adamw on small: 12,480 parameters in 6 tensors, float32, virtual, copy 0.1 GB/s" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("thalweg "))
    assert row.split()[:4] == ["thalweg", "3.025", "1.49", "1.49–1.49"]
    assert "torch loop failed: RuntimeError: it broke" in result.stdout
    assert "flashoptim is absent: not installed" in result.stdout
    assert "floor: " in result.stdout


def test_floors_are_the_bytes_that_passes_move() -> None:
    shapes = [(10, 10), (7,)]
    assert moved_bytes(rules.AdamW(), shapes) == (16 * 107, 12 * 107)
    assert moved_bytes(rules.AdamW(), shapes, torch.bfloat16) == (12 * 107, 10 * 107)  # float32 state
    read, written = moved_bytes(rules.LAMB(), shapes) or (0, 0)
    assert (read + written) / 107 == 44  # parameter, gradient and moments are read twice
    assert moved_bytes(rules.Muon(), shapes) is None


def test_a_rule_that_torch_lacks_is_compared_with_another_library_or_our_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert implementations.choose_baseline(["thalweg", "thalweg loop", "optimi"]) == "optimi"
    assert implementations.choose_baseline(["thalweg", "thalweg loop"]) == "thalweg loop"
    assert implementations.choose_baseline(["thalweg", "torch default", "torch fused"]) == "torch fused"
    found, absent = implementations.available_on(torch.device("cpu"), "prodigy")
    assert absent["torch"] == "torch.optim has no Prodigy"
    assert {"thalweg", "thalweg captured"} <= found.keys()
    _, absent = implementations.available_on(torch.device("cpu"), "rmsprop")
    assert absent["torch fused"].startswith("TypeError")
