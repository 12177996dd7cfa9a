"""DAdaptAdam: AdamW whose learning rate is a growing lower bound of the distance to the solution.

    a = ⟨g_t, s_{t-1} / (√v_{t-1} + ε)⟩ over the whole model        κ = √β₂,  γ = d_{t-1} η
    m_t = β₁ m_{t-1} + (1 - β₁) γ g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²
    s_t = κ s_{t-1} + (1 - κ) γ g_t
    r_t = κ r_{t-1} + (1 - κ) γ a
    d_t = max(d_{t-1}, min(r_t / ((1 - κ) ‖s_t‖₁), d_{t-1} G))        from d_0
    θ_t = (1 - γλ) θ_{t-1} - m_t / (√v_t + ε)

Use: training with AdamW without tuning a learning rate. Keep η at 1, or let it follow a schedule from 1.
Avoid: fine-tuning: d may grow too large. Prodigy is faster. Both need a schedule that ends near zero.
Source: Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 5.
Departs: it follows the authors' package `dadaptation` with decouple=True.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Sum
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.distance_estimate import initial_distance, max_growth
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class DAdaptAdam(Rule, scope="model", lr_in_state=True, estimates_lr=True):
    """AdamW whose learning rate is a growing lower bound of the distance to the solution."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    d0: Scalar = initial_distance()
    growth: Scalar = max_growth()
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage(doc="shrinks the parameter by γλ per step", place=decay.IN_STEP)

    class State:
        m = like_param(unit="θg", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")
        s = like_param(unit="θg", key="s")
        d = of_shape(unit="θ", key="d", fill=lambda rule: rule.d0)
        r = of_shape(unit="θ²g", key="numerator_weighted")

    def coefficients(self, step: int) -> Any:
        kappa = self.beta2**0.5
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            kappa=kappa,
            fresh=1 - kappa,
            growth=self.growth,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        gamma = state.d * c.lr
        product = yield Sum(grad * state.s / (root(state.v) + c.eps), over="model")
        m = c.beta1 * state.m + c.fresh1 * gamma * grad
        v = c.beta2 * state.v + c.fresh2 * (grad * grad)
        s = c.kappa * state.s + c.fresh * gamma * grad
        r = c.kappa * state.r + c.fresh * gamma * product
        norm = yield Sum(s.abs(), over="model")
        estimate = torch.where(norm > 0, r / (c.fresh * norm), state.d)
        d = torch.maximum(state.d, torch.minimum(estimate, state.d * c.growth))
        return m / (root(v) + c.eps) + c.weight_decay * gamma * param, state._replace(m=m, v=v, s=s, d=d, r=r)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param - direction, state
