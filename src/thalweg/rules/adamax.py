"""Adamax: Adam with a decaying maximum of the gradients in place of their root mean square.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t
    u_t = max(β₂ u_{t-1}, |g_t| + ε)
    θ_t = θ_{t-1} - η / (1 - β₁ᵗ) m_t / u_t

Use: embeddings and sparse features: their rare large gradients make Adam's denominator jump.
Avoid: use as a default: one outlier shortens the next 1 / (1 - β₂) steps.
Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2.
Departs: ε and an L2 penalty, as in torch.optim.Adamax.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class Adamax(Rule, scope="elementwise", corrects_bias=True):
    """Adam with a decaying maximum of the gradients in place of their root mean square."""

    lr: Scalar = learning_rate(2e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8, place="added to the gradient")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        m = like_param(unit="g", key="exp_avg")
        u = like_param(unit="g", key="exp_inf")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            m_correct=1 / (1 - self.beta1**step),
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        m = c.beta1 * state.m + c.fresh1 * g
        u = torch.maximum(c.beta2 * state.u, g.abs() + c.eps)
        return c.m_correct * m / u, state._replace(m=m, u=u)
