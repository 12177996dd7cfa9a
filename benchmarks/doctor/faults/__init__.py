"""Faults by subject, and all cases."""

from benchmarks.doctor import healthy
from benchmarks.doctor.cases import CASES
from benchmarks.doctor.faults import examples, forms, loops, numbers, outputs, propagation, several, steps, wiring

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
