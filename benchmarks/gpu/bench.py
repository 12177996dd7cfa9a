"""All benchmarks of steps, beside torch and other libraries, and the bounds of the README for an H100."""

from functools import partial
from typing import Any

import torch

from benchmarks.gpu import stub
from benchmarks.gpu.session import Session
from thalweg.bench.device_bench import COPY_BYTES, DeviceBenchmark, DeviceMeasurement, bench_on_device
from thalweg.bench.implementations import COMPILED_STEP, available_on, is_other_library
from thalweg.bench.sets import SETS, SETS_FOR_DEVICE

FUSED = ("adamw", "adam", "momentum", "adagrad")
NOT_FUSED = ("rmsprop", "nadam", "radam", "lion", "adan", "adopt", "prodigy", "lamb", "adafactor")
USUAL = ("thalweg", "thalweg captured", "torch foreach", "torch captured")
LARGE = 100_000_000  # parameters, from which on memory bandwidth limits a step


def run(session: Session) -> None:
    """Measure all rules; those that answer the most questions come first."""
    if session.stub:
        SETS["small"] = lambda: [(64, 64), (64,)] * 5
        _measure(session, "small", "adamw", ["thalweg", "thalweg captured", "torch foreach"])
        _measure(session, "small", "lion", None)
        return
    for set_name in ("gpt2-124m", "small"):
        names = [name for name in available_on(session.device, "adamw")[0] if name != COMPILED_STEP]
        _measure(session, set_name, "adamw", names)
    for set_name in SETS_FOR_DEVICE:
        for rule in FUSED:
            _measure(session, set_name, rule, list(USUAL))
    for set_name in ("gpt2-124m", "small"):
        for rule in NOT_FUSED:
            libraries = [name for name in available_on(session.device, rule)[0] if is_other_library(name)]
            _measure(session, set_name, rule, [*USUAL, *libraries])
    for rule in ("adamw", "lion"):
        _measure(session, "gpt2-124m", rule, list(USUAL), torch.bfloat16)
    _measure(session, "small", "adamw", ["thalweg", COMPILED_STEP])


def _measure(
    session: Session, set_name: str, rule: str, names: list[str] | None, dtype: torch.dtype = torch.float32
) -> None:
    """Measure a rule on a set, unless it was measured in this run, and keep the result and its bounds."""
    name = f"{rule} on {set_name}, {str(dtype).removeprefix('torch.')}"
    name += f", {COMPILED_STEP}" if names and COMPILED_STEP in names else ""
    if session.knows(name):
        return
    factories = available_on(session.device, rule)[0]
    benchmark = session.check(
        name,
        partial(
            bench_on_device,
            stub.meter(session.device),
            set_name,
            rule,
            rounds=3 if session.stub else 9,
            dtype=dtype,
            implementations=None if names is None else [name for name in names if name in factories],
            copy_bytes=2**20 if session.stub else COPY_BYTES,
        ),
    )
    if benchmark is None:
        return
    session.result(name, benchmark.as_dict())
    for line in _lines(benchmark):
        session.say(line)
    for implementation, reason in benchmark.failed.items():
        if not is_other_library(implementation):
            session.check(f"{name}: {implementation}", partial(_fail, reason))
    if dtype == torch.float32:
        _bounds(session, benchmark)


def _fail(reason: str) -> None:
    raise RuntimeError(reason)


def _bounds(session: Session, benchmark: DeviceBenchmark) -> None:
    """Keep the numbers beside their bounds."""
    measured: dict[str, Any] = {measurement.name: measurement for measurement in benchmark.measured}
    ours: DeviceMeasurement | None = measured.get("thalweg")
    if ours is None:
        return
    where = f"{benchmark.rule} on {benchmark.set}"
    rivals = [
        each for each in benchmark.measured if not each.name.startswith("thalweg") and "captured" not in each.name
    ]
    if benchmark.baseline == "torch fused":
        session.target(f"{where}: step ÷ torch fused", ours.ratio, at_most=1.0)
    elif rivals:
        best = min(rivals, key=lambda each: each.median_ms)
        session.target(f"{where}: step ÷ {best.name}", ours.median_ms / best.median_ms, at_most=0.5)
    if benchmark.num_parameters >= LARGE and ours.of_floor is not None:
        session.target(f"{where}: share of the copy bandwidth", ours.of_floor, at_least=0.9)
    if benchmark.set == "small":
        session.target(f"{where}: host time of a step, ms", ours.host_ms, at_most=0.15)
        if (captured := measured.get("thalweg captured")) is not None:
            session.target(f"{where}: captured ÷ eager", captured.median_ms / ours.median_ms, at_most=0.3)
    if ours.waits is not None:
        session.target(f"{where}: waits in a step", ours.waits, at_most=0)


def _lines(benchmark: DeviceBenchmark) -> list[str]:
    """Return a benchmark in lines. The command prints tables, for which a bare machine has no package."""
    floor = "" if benchmark.floor_ms is None else f", floor {benchmark.floor_ms:.3f} ms"
    lines = [f"{benchmark.rule} on {benchmark.set}, {benchmark.dtype}: copy {benchmark.bandwidth_gb_s:.0f} GB/s{floor}"]
    for each in benchmark.measured:
        assert isinstance(each, DeviceMeasurement)
        share = "" if each.of_floor is None else f", {each.of_floor:.0%} of the floor"
        extra = "" if each.peak_extra_mb is None else f", {each.peak_extra_mb:.1f} MB"
        lines.append(
            f"  {each.name:20} {each.median_ms:8.3f} ms, {each.ratio:5.2f} of {benchmark.baseline}, host "
            f"{each.host_ms:.3f} ms, {each.moved_gb_s:.0f} GB/s{share}{extra}, {each.waits} waits"
        )
    lines += [f"  {name} failed: {reason}" for name, reason in benchmark.failed.items()]
    return lines + [f"  {name} is absent: {reason}" for name, reason in benchmark.absent.items()]
