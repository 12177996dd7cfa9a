"""Distance estimates: what rules share that estimate their step size from the distance to the solution.

A parameter group at a learning rate of 0 is left out of their steps: it does not move, its own state stays, and the
sums over the model do not count it. A frozen layer must not change the estimate for the others.
"""

from typing import Any

from thalweg.rules.core.hyper import Scalar, hyper


def initial_distance() -> Any:
    """Declare d₀, the first estimate of the distance to the solution: a field of a rule's dataclass."""
    return hyper(1e-6, "> 0", symbol="d_0", unit="θ", doc="first estimate of the distance; small enough is good enough")


def max_growth() -> Any:
    """Declare the largest growth of an estimate in a step: a field of a rule's dataclass."""
    return hyper(
        1e9, "> 1", symbol="G", doc="largest growth of the estimate in a step; the default is no limit in practice"
    )


def counts_in_sums(lr: Scalar) -> float:
    """Return 1 if a parameter group counts in the sums over the model; 0 if its learning rate is 0."""
    return float(lr > 0)


def mean_weights(decay: Scalar, counts: float) -> tuple[Scalar, Scalar]:
    """Return the weights of the old value and of the new term in a running mean; 1 and 0 for a group left out."""
    return (decay, 1 - decay) if counts else (1.0, 0.0)
