"""MovingAverage: an exponential moving average (EMA) of the parameters, at which the model is evaluated.

    θ_t by the inner rule
    a_t = β a_{t-1} + (1 - β) θ_t        a_1 = θ_1

Evaluate the model at a.

Use: generative models, contrastive learning, and any training in place of a falling learning rate.
Avoid: short training: the average spans 1 / (1 - β) steps.
Source: Ruppert 1988; Polyak & Juditsky 1992; in this form Tarvainen & Valpola 2017, arXiv:1703.01780.
Departs: a_1 = θ_1, as in torch.optim.swa_utils.AveragedModel with its exponential average.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import copy_of_param


@dataclass(frozen=True, kw_only=True)
class MovingAverage(Wrapper):
    """An exponential moving average (EMA) of the parameters, at which the model is evaluated."""

    average_decay: Scalar = hyper(0.999, "[0, 1)", symbol="β", doc="decay of the average")

    effects = frozenset({"averages parameters"})

    class State:
        average = copy_of_param(key="average")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        keep = 0.0 if step == 1 else self.average_decay
        return {"average_keep": keep, "average_fresh": 1 - keep}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> ReductionGenerator:
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        return param, state._replace(average=c.average_keep * state.average + c.average_fresh * param)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return state.average
