"""Yogi: Adam whose mean square changes by at most (1 - β₂) times the new squared gradient.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t                            m̂_t = m_t / (1 - β₁ᵗ)
    v_t = v_{t-1} - (1 - β₂) sign(v_{t-1} - g_t²) g_t²         v̂_t = v_t / (1 - β₂ᵗ),  v_0 = the initial accumulator
    θ_t = θ_{t-1} - η m̂_t / (√v̂_t + ε)

Use: sparse gradients, and federated averaging, where Adam forgets large gradients too soon.
Avoid: Adam's value of ε: the authors use 10⁻³.
Source: Zaheer, Reddi, Sachan, Kale & Kumar 2018 (NeurIPS), Algorithm 2.
Departs: averages are corrected for bias, as in the authors' experiments; an L2 penalty.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class Yogi(Rule, scope="elementwise", corrects_bias=True):
    """Adam whose mean square changes by at most (1 - β₂) times the new squared gradient."""

    lr: Scalar = learning_rate(1e-2)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-3)
    initial_accumulator: Scalar = hyper(
        1e-6, ">= 0", symbol="initial accumulator", unit="g²", doc="first value of the mean square"
    )
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq", fill=lambda rule: rule.initial_accumulator)

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        square = g * g
        m = c.beta1 * state.m + c.fresh1 * g
        v = state.v - c.fresh2 * (torch.sign(state.v - square) * square)
        return c.m_correct * m / (c.root_v_correct * root(v) + c.eps), state._replace(m=m, v=v)
