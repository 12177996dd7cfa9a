"""AdaBelief: AdamW with the squared deviation of the gradient from its mean in place of the squared gradient.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t                       m̂_t = m_t / (1 - β₁ᵗ)
    s_t = β₂ s_{t-1} + (1 - β₂) (g_t - m_t)² + ε          ŝ_t = s_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√ŝ_t + ε)

Use: convolutional networks, and adversarial networks (GANs), where it is more stable than Adam.
Avoid: Adam's value of ε. Here ε is added to squares, and its value matters (10⁻¹⁶ for transformers, 10⁻⁸ for
convolutional networks).
Source: Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2.
Departs: decoupled weight decay, and ε at both places, as in the authors' package adabelief-pytorch 0.2 with
rectify=False.
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
class AdaBelief(decay.Decoupled, scope="elementwise", corrects_bias=True):
    """AdamW with the squared deviation of the gradient from its mean in place of the squared gradient."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-16, place="inside and outside the root", unit="g, g²")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="exp_avg")
        s = like_param(unit="g²", key="exp_avg_var")

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        m = c.beta1 * state.m + c.fresh1 * grad
        deviation = grad - m
        s = c.beta2 * state.s + c.fresh2 * (deviation * deviation) + c.eps
        return c.m_correct * m / (c.root_v_correct * root(s) + c.eps), state._replace(m=m, s=s)
