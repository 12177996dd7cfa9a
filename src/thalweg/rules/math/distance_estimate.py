"""Distance estimates: hyperparameters of rules that estimate their step size from the distance to the solution."""

from typing import Any

from thalweg.rules.core.hyper import hyper


def initial_distance() -> Any:
    """Declare d₀, the first estimate of the distance to the solution: a field of a rule's dataclass."""
    return hyper(1e-6, "> 0", symbol="d_0", unit="θ", doc="first estimate of the distance; small enough is good enough")


def max_growth() -> Any:
    """Declare the largest growth of an estimate in a step: a field of a rule's dataclass."""
    return hyper(
        1e9, "> 1", symbol="G", doc="largest growth of the estimate in a step; the default is no limit in practice"
    )
