"""ScheduleFreeAdamW: AdamW with a running average of its iterates, so that no schedule is needed.

    θ_t = (1 - β₁) z_t + β₁ x_t                   gradients are computed at θ, between z and x
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²              v̂_t = v_t / (1 - β₂ᵗ)
    d_t = g_t / (√v̂_t + ε) + λ θ_{t-1}
    z_t = z_{t-1} - η_t d_t                       η_t = η min(1, t / T)
    x_t = (1 - c_t) x_{t-1} + c_t z_t             c_t = w_t / Σ w,   w_t = tʳ max(η_1 … η_t)ᵖ

Evaluate the model at x.

Use: in place of AdamW with a schedule, also if the number of steps is unknown. η is one to ten times AdamW's.
Avoid: layers with running statistics, unless you refresh the statistics at x. A learning rate schedule.
Source: Defazio et al. 2024, arXiv:2405.15682, Algorithm 1 with Adam's scaling.
Departs: weight decay at θ, and the weights w, as in the authors' package `schedulefree`.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import copy_of_param, like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root
from thalweg.rules.math.schedule_free import ScheduleFree


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(ScheduleFree, scope="elementwise", corrects_bias=True):
    """AdamW with a running average of its iterates, so that no schedule is needed."""

    lr: Scalar = learning_rate(2.5e-3)
    beta1: Scalar = hyper(0.9, "(0, 1)", symbol="β₁", doc="weight of the average x in θ", keyword="betas")
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage(doc="λθ is added to the step of z", place=decay.IN_STEP)

    class State:
        z = copy_of_param(key="z")
        v = like_param(unit="g²", key="exp_avg_sq")

    @property
    def interpolation(self) -> Scalar:
        return self.beta1

    def coefficients(self, step: int) -> Any:
        shared = moments.coefficients(self, step) | {"lr": self.warmup_lr(step)}
        return record(**shared, weight_decay=self.weight_decay, away=1 - 1 / self.beta1)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        v = c.beta2 * state.v + c.fresh2 * (grad * grad)
        d = grad / (c.root_v_correct * root(v) + c.eps) + c.weight_decay * param
        return d, state._replace(v=v)
