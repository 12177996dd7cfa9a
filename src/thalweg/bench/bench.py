"""The benchmark: one set of parameters, one rule, every entrant, in one interleaved run."""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from thalweg.bench import measure
from thalweg.bench.entrants import COMPILED, RIVALS, RULES, factories
from thalweg.bench.sets import SETS
from thalweg.engine.kernels import kernel_cache
from thalweg.errors import SettingError, UnknownNameError, nearest
from thalweg.optim import RuleOptimizer

_WARM_UP = 3


@dataclass(frozen=True)
class Measured:
    """What was measured of one entrant. Ratios are to the baseline; a spread is a tenth and a ninetieth percentile.

    Dispatches and memory are None where a step cannot be watched, as those made by `torch.compile` cannot.
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
    """One set, one rule: who was measured against whom, on what."""

    set: str
    rule: str
    baseline: str
    rounds: int
    num_tensors: int
    num_parameters: int
    bandwidth_gb_s: float
    machine: dict[str, Any]
    measured: tuple[Measured, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def bench(
    set_name: str,
    rule: str,
    *,
    rounds: int = 30,
    entrants: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Benchmark:
    """Measure the steps of a rule on a set of parameters.

    Args:
        set_name: one of `SETS`
        rule: one of `RULES`
        rounds: how many steps of each are timed, at least 2; slow moments of a machine need 20 or more
        entrants: names out of `ENTRANTS`; by default ours and torch's; other libraries are measured when they are named
        progress: told what is being done

    The baseline is torch's fused kernel where there is one, and torch's default otherwise.

    """
    for what, name, known in (("set", set_name, SETS), ("rule", rule, RULES)):
        if name not in known:
            raise UnknownNameError(f"bench: there is no {what} named {name!r}. {nearest(name, known)}")
    if rounds < 2:
        raise SettingError(f"bench: rounds must be >= 2, got {rounds}.")
    made = factories(rule)
    baseline = "torch fused" if "torch fused" in made else "torch default"
    default = [name for name in made if name not in RIVALS]
    asked = default if entrants is None else list(dict.fromkeys([baseline, *entrants]))
    for name in asked:
        if name not in made:
            raise UnknownNameError(f"bench: there is no entrant {name!r} for {rule} here. {nearest(name, made)}")
    shapes = SETS[set_name]()
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator) * 0.01 for shape in shapes]
    steps: dict[str, Callable[[], None]] = {}
    seen: dict[str, tuple[int | None, float | None, int]] = {}
    numbers: dict[str, int] = {}
    for name in asked:
        progress(f"{set_name}, {rule}: {name} is warmed up")
        params = [torch.full(shape, 0.02, requires_grad=True) for shape in shapes]
        optimizer = made[name](params)
        before = len(kernel_cache.builds)
        if isinstance(optimizer, RuleOptimizer):
            optimizer.prepare()
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # type: ignore[attr-defined]  # schedule-free
        for _ in range(_WARM_UP):
            _give(params, grads)
            optimizer.step()
        _give(params, grads)
        unwatched = None, None
        seen[name] = *(unwatched if name in COMPILED else _watched(optimizer)), len(kernel_cache.builds) - before
        numbers[name] = _moved(optimizer, params)
        steps[name] = partial(_step, optimizer, params, grads)
    progress(f"{set_name}, {rule}: {rounds} rounds of {', '.join(asked)}")
    times = measure.interleaved(steps, rounds)
    rate = measure.bandwidth()
    measured = []
    for name in asked:
        median = statistics.median(times[name])
        ratio, low, high = measure.ratio(times[name], times[baseline])
        moved = 4 * numbers[name] / median
        dispatches, peak_mb, builds = seen[name]
        measured.append(
            Measured(name, 1e3 * median, ratio, low, high, dispatches, peak_mb, builds, moved / 1e9, moved / rate)
        )
    return Benchmark(
        set=set_name,
        rule=rule,
        baseline=baseline,
        rounds=rounds,
        num_tensors=len(shapes),
        num_parameters=sum(torch.Size(shape).numel() for shape in shapes),
        bandwidth_gb_s=rate / 1e9,
        machine=machine(),
        measured=tuple(measured),
    )


def _watched(optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    with measure.Watched() as watched:
        optimizer.step()
    return watched.operations, watched.peak_bytes / 1e6


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as told:
            return next(line for line in told if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _give(params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


def _step(optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]) -> None:
    optimizer.step()
    if params[0].grad is None:  # taken away by the step of HeavyBall
        _give(params, grads)


def _moved(optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor]) -> int:
    """Numbers that a step must move at least: the gradient read, the parameter and its state read and written."""
    state = sum(
        value.numel()
        for param in params
        for value in optimizer.state[param].values()
        if isinstance(value, torch.Tensor) and value.shape == param.shape
    )
    return 3 * sum(param.numel() for param in params) + 2 * state
