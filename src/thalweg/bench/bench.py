"""The benchmark: time one rule on one set of parameters, all implementations in one interleaved run."""

import statistics
from collections.abc import Callable, Sequence

import torch

from thalweg.bench import measure
from thalweg.bench.device_bench import bench_on_device
from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.implementations import (
    COMPILED,
    RULES,
    MakeOptimizer,
    available,
    choose_baseline,
    is_other_library,
    select,
)
from thalweg.bench.records import Benchmark, Measurement, machine
from thalweg.bench.sets import SETS, Shapes
from thalweg.bench.stepper import Stepper
from thalweg.engine.core import devices
from thalweg.errors import SettingError, UnknownNameError, nearest


def bench(
    set_name: str,
    rule: str,
    *,
    rounds: int = 30,
    implementations: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Benchmark:
    """Time the steps of a rule on a set of parameters, for several implementations in one interleaved run.

    The baseline is torch's fused kernel, or torch's default (on a device: its foreach implementation) if the rule has
    no fused kernel. If torch does not have the rule, it is the first other library that has it, else our loop.

    On a device other than the CPU, steps are timed by marks in its queue, and their calls on the host; a copy of a
    vector in the same rounds measures the bandwidth. An implementation that raises an error, such as out of memory, is
    listed with the reason.

    Args:
        set_name: Name of the parameters, from ``SETS``.
        rule: Name of the rule, from ``RULES``.
        rounds: Number of timed steps of each implementation, >= 2. Slow moments of a machine need 20 or more.
        implementations: Names from ``IMPLEMENTATIONS``. None means thalweg's and torch's; other libraries are timed
            only if you name them.
        progress: Called with a message before each stage.
        device: The device of the parameters: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"`` or ``"mps"``.
        dtype: The dtype of the parameters and gradients. On the CPU, float32.

    Returns:
        The measurements and the facts about this machine; on a device a ``DeviceBenchmark``.

    Raises:
        UnknownNameError: If there is no such set, rule or implementation.
        SettingError: If ``rounds`` is less than 2, or if ``dtype`` is not float32 on the CPU.
        DeviceError: If this machine has no such device.

    Example:
        >>> from thalweg.bench import bench
        >>> result = bench("small", "adamw", rounds=2, implementations=["thalweg"])
        >>> [measurement.name for measurement in result.measured]
        ['torch fused', 'thalweg']
    """
    for description, name, known in (("set", set_name, SETS), ("rule", rule, RULES)):
        if name not in known:
            raise UnknownNameError(f"bench: there is no {description} named {name!r}. {nearest(name, known)}")
    if rounds < 2:
        raise SettingError(f"bench: rounds must be >= 2, got {rounds}.")
    if (checked := devices.check(device)).type != "cpu":
        return bench_on_device(
            DeviceMeter(checked),
            set_name,
            rule,
            rounds=rounds,
            dtype=dtype,
            implementations=implementations,
            progress=progress,
        )
    if dtype != torch.float32:
        raise SettingError(f"bench: dtype must be float32 on the CPU, got {dtype}. Omit dtype, or name a device.")
    factories = available(rule)
    baseline = choose_baseline(factories)
    names = select(implementations, factories, baseline, rule, default=lambda name: not is_other_library(name))
    shapes = SETS[set_name]()
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator) * 0.01 for shape in shapes]
    steppers: dict[str, _CountedStepper] = {}
    for name in names:
        progress(f"{set_name}, {rule}: {name} is warmed up")
        steppers[name] = _CountedStepper(factories[name], shapes, grads, can_count=name not in COMPILED)
    progress(f"{set_name}, {rule}: {rounds} rounds of {', '.join(names)}")
    times = measure.time_interleaved({name: stepper.step for name, stepper in steppers.items()}, rounds)
    bandwidth = measure.memory_bandwidth()
    return Benchmark(
        set=set_name,
        rule=rule,
        baseline=baseline,
        rounds=rounds,
        num_tensors=len(shapes),
        num_parameters=sum(torch.Size(shape).numel() for shape in shapes),
        bandwidth_gb_s=bandwidth / 1e9,
        machine=machine(),
        measured=tuple(
            _measurement(name, stepper, times[name], times[baseline], bandwidth) for name, stepper in steppers.items()
        ),
    )


class _CountedStepper(Stepper):
    """A stepper whose operations and extra memory are counted before anything is timed."""

    def __init__(self, make: MakeOptimizer, shapes: Shapes, grads: Sequence[torch.Tensor], *, can_count: bool) -> None:
        super().__init__(make, [torch.full(shape, 0.02, requires_grad=True) for shape in shapes], grads)
        self.dispatches: int | None = None
        self.peak_extra_mb: float | None = None
        if can_count:
            with measure.DispatchCounter() as counter:
                self.optimizer.step()
            self.dispatches, self.peak_extra_mb = counter.operations, counter.peak_bytes / 1e6


def _measurement(
    name: str, stepper: _CountedStepper, times: Sequence[float], baseline: Sequence[float], bandwidth: float
) -> Measurement:
    ratio, low, high = measure.ratio_of_medians(times, baseline)
    median_s = statistics.median(times)
    moved_bytes_s = stepper.moved_bytes() / median_s
    return Measurement(
        name=name,
        median_ms=1e3 * median_s,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        dispatches=stepper.dispatches,
        peak_extra_mb=stepper.peak_extra_mb,
        compilations=stepper.compilations,
        moved_gb_s=moved_bytes_s / 1e9,
        of_bandwidth=moved_bytes_s / bandwidth,
    )
