"""Sophia: momentum divided by an estimate of the curvature, and clipped where the estimate is unreliable.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t
    h_t = β₂ h_{t-1} + (1 - β₂) ĥ          when an estimate ĥ of the Hessian's diagonal is given, else h_{t-1}
    θ_t = (1 - ηλ) θ_{t-1} - η clip(m_t / max(ρ h_t, ε), ±1)

`estimate_curvature(loss)` (Hutchinson) or `absorb_gauss_newton(num_examples)` provides an estimate; the source calls it
every ten steps. Without any estimate it is Signum.

Use: pre-training of language models, with estimates of the Gauss-Newton kind.
Avoid: training loops that cannot include an additional backward pass every few steps.
Source: Liu, Li, Hall, Liang & Ma 2023, arXiv:2305.14342, Algorithm 3.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class Sophia(decay.Decoupled, scope="elementwise", needs="curvature", curvature_interval=10):
    """Momentum divided by an estimate of the curvature, and clipped where the estimate is unreliable."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.965)
    beta2: Scalar = square_decay(0.99)
    rho: Scalar = hyper(0.04, "> 0", symbol="ρ", search=Range(0.01, 0.1, "log"), doc="weight of the curvature")
    eps: Scalar = epsilon(1e-12, place="lower bound of the divisor", unit="g/θ")
    weight_decay: Scalar = decay.shrinkage(0.1)

    class State:
        m = like_param(unit="g", key="exp_avg")
        h = like_param(unit="g/θ", key="hessian")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            rho=self.rho,
            eps=self.eps,
            shrink=decay.shrink(self),
        )

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Any:
        return state._replace(h=c.beta2 * state.h + c.fresh2 * curvature)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        m = c.beta1 * state.m + c.fresh1 * grad
        return torch.clamp(m / torch.clamp(c.rho * state.h, min=c.eps), min=-1, max=1), state._replace(m=m)
