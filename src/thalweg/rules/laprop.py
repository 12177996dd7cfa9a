"""LaProp: AdamW that divides the gradients before it averages them, so momentum cannot make a step large.

    v_t = β₂ v_{t-1} + (1 - β₂) g_t²                                v̂_t = v_t / (1 - β₂ᵗ)
    m_t = β₁ m_{t-1} + (1 - β₁) g_t / (√v̂_t + ε)
    θ_t = (1 - ηλ) θ_{t-1} - η m_t / (1 - β₁ᵗ)

Use: problems on which Adam diverges with a small β₂, and noisy problems: reinforcement learning, adversarial networks.
Avoid: no reason is known: it has Adam's settings and memory.
Source: Ziyin, Wang & Ueda 2020, arXiv:2002.04839, Algorithm 1.
Departs: decoupled weight decay.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class LaProp(decay.Decoupled, scope="elementwise", corrects_bias=True):
    """AdamW that divides the gradients before it averages them, so momentum cannot make a step large."""

    lr: Scalar = learning_rate(4e-4)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-15)
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="1", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        v = c.beta2 * state.v + c.fresh2 * (grad * grad)
        m = c.beta1 * state.m + c.fresh1 * (grad / (c.root_v_correct * root(v) + c.eps))
        return c.m_correct * m, state._replace(m=m, v=v)
