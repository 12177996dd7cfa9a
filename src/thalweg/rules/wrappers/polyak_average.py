"""PolyakAverage: the plain average of the parameters from a given step on, at which the model is evaluated.

    θ_t by the inner rule
    a_t = a_{t-1} + (θ_t - a_{t-1}) / max(1, t - s)        so a_t = θ_t up to step s + 1

Evaluate the model at a.

Use: a constant learning rate and noisy gradients: the average converges while the parameters fluctuate.
Avoid: averaging from the start of a long training: early parameters count as much as late ones. Choose s.
Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30, 838-855); Ruppert 1988.
Departs: nothing. From step 1 on it equals torch.optim.swa_utils.AveragedModel.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import copy_of_param


@dataclass(frozen=True, kw_only=True)
class PolyakAverage(Wrapper):
    """The plain average of the parameters from a given step on, at which the model is evaluated."""

    start: Scalar = hyper(0, ">= 0", symbol="s", unit="steps", doc="start of the average")

    effects = frozenset({"averages parameters"})

    class State:
        average = copy_of_param(key="average")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"average_fresh": 1 / max(1, step - self.start)}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> ReductionGenerator:
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        return param, state._replace(average=state.average + c.average_fresh * (param - state.average))

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return state.average
