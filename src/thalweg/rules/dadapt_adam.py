"""DAdaptAdam: AdamW whose learning rate is a growing lower bound of the distance to the solution.

    a = ⟨g_t, s_{t-1} / (√v_{t-1} + ε)⟩        sums over the whole model; κ = √β₂, γ = d_{t-1} η
    m_t = β₁ m_{t-1} + (1 - β₁) γ g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²
    s_t = κ s_{t-1} + (1 - κ) γ g_t
    r_t = κ r_{t-1} + (1 - κ) d_{t-1} η' a
    d_t = max(d_{t-1}, min(r_t / ((1 - κ) ‖s_t‖₁), d_{t-1} G))        from d_0
    θ_t = (1 - γλ) θ_{t-1} - m_t / (√v_t + ε)

d and r are of the whole model. η is the learning rate of the parameter's group, η' the highest of all groups. The sums
cover all parameters with a gradient in groups with η > 0. A group at η = 0 is left out and does not move.

Use: training with AdamW without tuning a learning rate. Keep η at 1, or let it follow a schedule from 1.
Avoid: fine-tuning: d may grow too large. Prodigy is faster. Both need a schedule that ends near zero.
Source: Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 5.
Departs: it follows the authors' package `dadaptation` with decouple=True. The learning rate of a group over the highest
one is what they call its `layer_scale`.
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
from thalweg.rules.math.distance_estimate import counts_in_sums, initial_distance, max_growth, mean_weights
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class DAdaptAdam(
    Rule,
    scope="model",
    lr_in_state=True,
    estimates_lr=True,
    has_shared_state=True,
    shared_settings=("beta2", "d0", "growth"),
    uses_model_lr=True,
):
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
        d = of_shape(unit="θ", key="d", fill=lambda rule: rule.d0, shared=True)
        r = of_shape(unit="θ²g", key="numerator_weighted", shared=True)

    def coefficients(self, step: int) -> Any:
        counts = counts_in_sums(self.lr)
        kappa = sqrt(self.beta2)
        beta1, fresh1 = mean_weights(self.beta1, counts)
        beta2, fresh2 = mean_weights(self.beta2, counts)
        return record(
            lr=self.lr,
            counts=counts,
            beta1=beta1,
            fresh1=fresh1,
            beta2=beta2,
            fresh2=fresh2,
            kappa=kappa,
            fresh=1 - kappa,
            s_keep=kappa if counts else 1.0,
            growth=self.growth,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return {"model_lr": model_lr}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        gamma = state.d * c.lr
        product = yield Sum(c.counts * grad * state.s / (root(state.v) + c.eps), over="model")
        m = c.beta1 * state.m + c.fresh1 * gamma * grad
        v = c.beta2 * state.v + c.fresh2 * (grad * grad)
        s = c.s_keep * state.s + c.fresh * gamma * grad
        norm = yield Sum(c.counts * s.abs(), over="model")
        # Before the first gradient, and if no group counts, nothing moves and nothing of the model changes.
        r = torch.where(norm > 0, c.kappa * state.r + c.fresh * state.d * c.model_lr * product, state.r)
        estimate = torch.where(norm > 0, r / (c.fresh * norm), state.d)
        d = torch.maximum(state.d, torch.minimum(estimate, state.d * c.growth))
        shrink = torch.where(norm > 0, c.weight_decay * gamma, torch.zeros_like(gamma))
        return c.counts * (m / (root(v) + c.eps)) + shrink * param, state._replace(m=m, v=v, s=s, d=d, r=r)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param - direction, state
