"""MovingAverage: an exponential moving average (EMA) of the parameters, at which the model is evaluated.

    θ_t by the inner rule
    a_t = β a_{t-1} + (1 - β) θ_t        a_1 = θ_1

Evaluate the model at a. t counts the steps of the optimizer: while a parameter has no gradient, its average moves on
towards it. A parameter that joins late is averaged from the start, as the constant that it was.

Use: generative models, contrastive learning, and any training in place of a falling learning rate.
Avoid: short training: the average spans 1 / (1 - β) steps.
Source: Ruppert 1988; Polyak & Juditsky 1992; in this form Tarvainen & Valpola 2017, arXiv:1703.01780.
Departs: a_1 = θ_1, as in torch.optim.swa_utils.AveragedModel with its exponential average.
"""

from dataclasses import dataclass
from typing import Any

from thalweg.rules.composition.parameter_average import ParameterAverage
from thalweg.rules.core.hyper import Scalar, hyper


@dataclass(frozen=True, kw_only=True)
class MovingAverage(ParameterAverage):
    """An exponential moving average (EMA) of the parameters, at which the model is evaluated."""

    average_decay: Scalar = hyper(0.999, "[0, 1)", symbol="β", doc="decay of the average")

    def keep(self, step: float) -> Any:
        return 0.0 if step == 1 else self.average_decay
