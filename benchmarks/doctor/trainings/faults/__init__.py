"""Faults by subject, and all cases."""

from benchmarks.doctor.trainings import healthy
from benchmarks.doctor.trainings.cases import CASES
from benchmarks.doctor.trainings.faults import (
    examples,
    forms,
    loops,
    numbers,
    outputs,
    propagation,
    several,
    steps,
    wiring,
)

__all__ = [
    "CASES",
    "examples",
    "forms",
    "healthy",
    "loops",
    "numbers",
    "outputs",
    "propagation",
    "several",
    "steps",
    "wiring",
]
