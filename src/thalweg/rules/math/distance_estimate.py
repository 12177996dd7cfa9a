"""Estimates: what rules share that estimate their own learning rate, from how far the parameters have to go."""

from typing import Any

from thalweg.rules.core.hyper import hyper


def first_distance() -> Any:
    """Declare d₀, the first estimate of the distance to the solution: a field of a rule's dataclass."""
    return hyper(1e-6, "> 0", symbol="d_0", unit="θ", doc="first estimate of the distance; small enough is good enough")


def growth() -> Any:
    """Declare how much an estimate may grow at a step: a field of a rule's dataclass."""
    return hyper(1e9, "> 1", symbol="G", doc="largest growth of the estimate at a step; so large a one is none")
