"""Records of benchmarks: the measured cost of a step, and the machine."""

import platform
from dataclasses import asdict, dataclass
from typing import Any

import torch


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
