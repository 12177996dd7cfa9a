"""PolyakAverage: the plain average of the parameters from a given step on, at which the model is evaluated.

    θ_t by the inner rule
    a_t = a_{t-1} + (θ_t - a_{t-1}) / max(1, t - s)        so a_t = θ_t up to step s + 1

Evaluate the model at a. t counts the steps of the optimizer: while a parameter has no gradient, each step adds its
present value to the average. A parameter that joins late is averaged from the start, as the constant that it was.

Use: a constant learning rate and noisy gradients: the average converges while the parameters fluctuate.
Avoid: averaging from the start of a long training: early parameters count as much as late ones. Choose s.
Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30, 838-855); Ruppert 1988.
Departs: nothing. From step 1 on it equals torch.optim.swa_utils.AveragedModel.
"""

from dataclasses import dataclass
from typing import Any

from thalweg.rules.composition.parameter_average import ParameterAverage
from thalweg.rules.core.hyper import Scalar, hyper


@dataclass(frozen=True, kw_only=True)
class PolyakAverage(ParameterAverage):
    """The plain average of the parameters from a given step on, at which the model is evaluated."""

    start: Scalar = hyper(0, ">= 0", symbol="s", unit="steps", doc="start of the average")

    def keep(self, step: float) -> Any:
        return 1 - 1 / max(1, step - self.start)
