"""AdaHessian: Adam with the Hessian's diagonal in place of the gradient in the mean square.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) D_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t^k + ε)

D_t is the last estimate of the diagonal. To update it, call `estimate_curvature(loss)` before the step. D_t is 1 before
the first estimate.

Use: problems whose curvature differs much between parameters and changes slowly.
Avoid: models for which a second backward pass is too expensive: it doubles the cost of a step.
Source: Yao, Gholami, Shen, Mustafa, Keutzer & Mahoney 2020, arXiv:2006.00719, Algorithm 1 and equation 10.
Departs: no averaging over neighbouring elements (a block size of 1); decoupled weight decay; the state
holds √v.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import hypot
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class AdaHessian(decay.Decoupled, scope="elementwise", corrects_bias=True, needs="curvature", curvature_interval=1):
    """Adam with the Hessian's diagonal in place of the gradient in the mean square."""

    lr: Scalar = learning_rate(0.1, low=1e-3, high=10.0, unit="1")
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    hessian_power: Scalar = hyper(1.0, "[0, 1]", symbol="k", doc="exponent of the curvature in the divisor")
    eps: Scalar = epsilon(1e-4, unit="g/θ")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="exp_avg")
        root_v = like_param(unit="g/θ", key="exp_hessian_diag_norm")  # squares leave the range of float32 early
        d = like_param(unit="g/θ", key="hessian", fill=lambda rule: 1.0)

    def coefficients(self, step: int) -> Any:
        return record(
            **moments.coefficients(self, step),
            root_beta2=sqrt(self.beta2),
            root_fresh2=sqrt(1 - self.beta2),
            power=self.hessian_power,
            shrink=decay.shrink(self),
        )

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Any:
        return state._replace(d=curvature)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        m = c.beta1 * state.m + c.fresh1 * grad
        root_v = hypot(c.root_beta2 * state.root_v, c.root_fresh2 * state.d.abs())
        divisor = torch.pow(c.root_v_correct * root_v, c.power) + c.eps
        return c.m_correct * m / divisor, state._replace(m=m, root_v=root_v)
