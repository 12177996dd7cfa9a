"""ScheduleFreeSGD: SGD with a running average of its iterates, so that no schedule is needed.

    θ_t = (1 - β) z_t + β x_t                     gradients are computed at θ, between z and x
    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    z_t = z_{t-1} - η_t g_t                       η_t = η min(1, t / T)
    x_t = (1 - c_t) x_{t-1} + c_t z_t             c_t = w_t / Σ w,   w_t = tʳ max(η_1 … η_t)ᵖ

Evaluate the model at x.

Use: training with an unknown number of steps, with a constant learning rate that is larger than a schedule allows.
Avoid: layers with running statistics, unless you refresh the statistics at x. A learning rate schedule.
Source: Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.
Departs: weight decay at θ, and the weights w, as in the authors' package `schedulefree`.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.state import copy_of_param
from thalweg.rules.math import decay
from thalweg.rules.math.schedule_free import ScheduleFree


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeSGD(ScheduleFree, scope="elementwise"):
    """SGD with a running average of its iterates, so that no schedule is needed."""

    lr: Scalar = learning_rate(1.0, low=1e-3, high=100.0, unit="θ/g")
    momentum: Scalar = hyper(0.9, "(0, 1)", symbol="β", doc="weight of the average x in θ")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        z = copy_of_param(key="z")

    @property
    def interpolation(self) -> Scalar:
        return self.momentum

    def coefficients(self, step: int) -> Any:
        return record(lr=self.warmup_lr(step), weight_decay=self.weight_decay, away=1 - 1 / self.momentum)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return decay.coupled(grad, param, c), state
