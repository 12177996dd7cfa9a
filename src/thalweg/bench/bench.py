"""The benchmark: time one rule on one set of parameters, all implementations in one interleaved run."""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from thalweg.bench import measure
from thalweg.bench.implementations import COMPILED, OTHER_LIBRARIES, RULES, MakeOptimizer, available
from thalweg.bench.sets import SETS, Shapes
from thalweg.engine.kernels import kernel_cache
from thalweg.errors import SettingError, UnknownNameError, nearest
from thalweg.optim import RuleOptimizer

_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Measurement:
    """The measured cost of a step of one implementation.

    Attributes:
        name: Name of the implementation, from ``IMPLEMENTATIONS``.
        median_ms: Median time of a step, in milliseconds.
        ratio: ``median_ms`` divided by that of the baseline.
        ratio_low: 10th percentile of the ratios of single rounds.
        ratio_high: 90th percentile of the ratios of single rounds.
        dispatches: Operations that PyTorch dispatches in a step; None for steps made by ``torch.compile``, which
            cannot be counted.
        peak_extra_mb: Largest memory of temporary tensors in a step, in megabytes; None if it cannot be counted.
        compilations: Kernels that were compiled before the first step.
        moved_gb_s: Gigabytes per second that a step moves at least.
        of_bandwidth: ``moved_gb_s`` as a share of the memory bandwidth of this machine.
    """

    name: str
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    dispatches: int | None
    peak_extra_mb: float | None
    compilations: int
    moved_gb_s: float
    of_bandwidth: float


@dataclass(frozen=True)
class Benchmark:
    """One rule on one set of parameters: all measurements, and where they were made.

    Attributes:
        set: Name of the set of parameters, from ``SETS``.
        rule: Name of the rule, from ``RULES``.
        baseline: The implementation to which ratios refer.
        rounds: Number of timed steps of each implementation.
        num_tensors: Number of parameter tensors.
        num_parameters: Number of elements of all parameter tensors.
        bandwidth_gb_s: Memory bandwidth of this machine, in gigabytes per second.
        machine: Processor, threads and versions.
        measured: The measurements; the baseline is among them.
    """

    set: str
    rule: str
    baseline: str
    rounds: int
    num_tensors: int
    num_parameters: int
    bandwidth_gb_s: float
    machine: dict[str, Any]
    measured: tuple[Measurement, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, for JSON."""
        return asdict(self)


def bench(
    set_name: str,
    rule: str,
    *,
    rounds: int = 30,
    implementations: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Benchmark:
    """Time the steps of a rule on a set of parameters, for several implementations in one interleaved run.

    The baseline is torch's fused kernel, or torch's default if the rule has no fused kernel.

    Args:
        set_name: Name of the parameters, from ``SETS``.
        rule: Name of the rule, from ``RULES``.
        rounds: Number of timed steps of each implementation, >= 2. Slow moments of a machine need 20 or more.
        implementations: Names from ``IMPLEMENTATIONS``. None means thalweg's and torch's; other libraries are timed
            only if you name them.
        progress: Called with a message before each stage.

    Returns:
        The measurements and the facts about this machine.

    Raises:
        UnknownNameError: If there is no such set, rule or implementation.
        SettingError: If ``rounds`` is less than 2.

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
    factories = available(rule)
    baseline = "torch fused" if "torch fused" in factories else "torch default"
    names = _select(implementations, factories, baseline, rule)
    shapes = SETS[set_name]()
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator) * 0.01 for shape in shapes]
    steppers: dict[str, _Stepper] = {}
    for name in names:
        progress(f"{set_name}, {rule}: {name} is warmed up")
        steppers[name] = _Stepper(factories[name], shapes, grads, can_count=name not in COMPILED)
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


def _select(
    requested: Sequence[str] | None, factories: dict[str, MakeOptimizer], baseline: str, rule: str
) -> list[str]:
    """Return the names to time: the baseline and those that were requested, or the default."""
    if requested is None:
        return [name for name in factories if name not in OTHER_LIBRARIES]
    names = list(dict.fromkeys([baseline, *requested]))
    for name in names:
        if name not in factories:
            raise UnknownNameError(
                f"bench: there is no implementation {name!r} of {rule} here. {nearest(name, factories)}"
            )
    return names


class _Stepper:
    """One optimizer with parameters and gradients, warmed up; what does not depend on time is already measured."""

    def __init__(self, make: MakeOptimizer, shapes: Shapes, grads: Sequence[torch.Tensor], *, can_count: bool) -> None:
        self._params = [torch.full(shape, 0.02, requires_grad=True) for shape in shapes]
        self._grads = grads
        self._optimizer = make(self._params)
        num_builds = len(kernel_cache.builds)
        if isinstance(self._optimizer, RuleOptimizer):
            self._optimizer.prepare()
        if callable(getattr(self._optimizer, "train", None)):
            self._optimizer.train()  # type: ignore[attr-defined]  # schedule-free optimizers have it
        for _ in range(_WARM_UP_STEPS):
            self._set_gradients()
            self._optimizer.step()
        self._set_gradients()
        self.dispatches: int | None = None
        self.peak_extra_mb: float | None = None
        if can_count:
            self.dispatches, self.peak_extra_mb = self._count()
        self.compilations = len(kernel_cache.builds) - num_builds
        self.moved_bytes = 4 * _moved_numbers(self._optimizer, self._params)

    def step(self) -> None:
        """Take one step."""
        self._optimizer.step()
        if self._params[0].grad is None:  # HeavyBall's step removes the gradients
            self._set_gradients()

    def _set_gradients(self) -> None:
        for param, grad in zip(self._params, self._grads, strict=True):
            param.grad = grad

    def _count(self) -> tuple[int, float]:
        """Return the dispatched operations of a step and its extra memory in megabytes."""
        with measure.DispatchCounter() as counter:
            self._optimizer.step()
        return counter.operations, counter.peak_bytes / 1e6


def _measurement(
    name: str, stepper: _Stepper, times: Sequence[float], baseline: Sequence[float], bandwidth: float
) -> Measurement:
    ratio, low, high = measure.ratio_of_medians(times, baseline)
    median_s = statistics.median(times)
    moved_bytes_s = stepper.moved_bytes / median_s
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


def machine() -> dict[str, Any]:
    """Return the facts about this machine that a record names."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _moved_numbers(optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor]) -> int:
    """Return how many numbers a step moves at least: it reads gradients, and reads and writes parameters and state."""
    state = sum(
        value.numel()
        for param in params
        for value in optimizer.state[param].values()
        if isinstance(value, torch.Tensor) and value.shape == param.shape
    )
    return 3 * sum(param.numel() for param in params) + 2 * state
