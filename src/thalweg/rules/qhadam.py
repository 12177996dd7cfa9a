"""QHAdam: Adam with each mean replaced by a weighted sum of the mean and its newest term.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = θ_{t-1} - η ((1 - ν₁) g_t + ν₁ m̂_t) / (√((1 - ν₂) g_t² + ν₂ v̂_t) + ε)

Use: problems on which Adam is unstable: ν₂ < 1 bounds the step. Adam and NAdam are special cases.
Avoid: problems on which five settings are too many to tune.
Source: Ma & Yarats 2019, arXiv:1810.06801, equations 16 and 17.
Departs: an L2 penalty.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class QHAdam(Rule, scope="elementwise", corrects_bias=True):
    """Adam with each mean replaced by a weighted sum of the mean and its newest term."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.995)
    beta2: Scalar = square_decay(0.999)
    nu1: Scalar = hyper(
        0.7, "[0, 1]", symbol="ν₁", search=Range(0.3, 1.0), doc="share of the mean gradient", keyword="nus"
    )
    nu2: Scalar = hyper(1.0, "[0, 1]", symbol="ν₂", doc="share of the mean square", keyword="nus")
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            rest1=1 - self.nu1,
            of_m=self.nu1 / (1 - self.beta1**step),
            rest2=1 - self.nu2,
            of_v=self.nu2 / (1 - self.beta2**step),
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        square = g * g
        m = c.beta1 * state.m + c.fresh1 * g
        v = c.beta2 * state.v + c.fresh2 * square
        d = (c.rest1 * g + c.of_m * m) / (root(c.rest2 * square + c.of_v * v) + c.eps)
        return d, state._replace(m=m, v=v)
