"""Adan: Adam with a running mean of gradient differences, which looks ahead as Nesterov's momentum does.

    Δ_t = g_t - g_{t-1}                          Δ_1 = 0
    m_t = β₁ m_{t-1} + (1 - β₁) g_t              m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) Δ_t              v̂_t = v_t / (1 - β₂ᵗ)
    n_t = β₃ n_{t-1} + (1 - β₃) (g_t + β₂ Δ_t)²  n̂_t = n_t / (1 - β₃ᵗ)
    θ_t = (θ_{t-1} - η (m̂_t + β₂ v̂_t) / (√n̂_t + ε)) / (1 + ηλ)

Use: vision transformers and large batches, with η five to ten times AdamW's.
Avoid: models that leave little memory: it stores four numbers for each parameter.
Source: Xie, Zhou, Li, Lin & Yan 2022, arXiv:2208.06677, Algorithm 1.
Departs: β is the weight of the old average (the paper's β is 1 minus it), and averages are corrected for bias, as in
the authors' code.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class Adan(Rule, scope="elementwise", corrects_bias=True):
    """Adam with a running mean of gradient differences, which looks ahead as Nesterov's momentum does."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.98)
    beta2: Scalar = mean_decay(0.92, symbol="β₂")
    beta3: Scalar = square_decay(0.99, symbol="β₃")
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g", key="exp_avg_diff")
        n = like_param(unit="g²", key="exp_avg_sq")
        last = like_param(unit="g", key="last_grad")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            has_previous=float(step > 1),
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            m_correct=1 / (1 - self.beta1**step),
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            v_correct=self.beta2 / (1 - self.beta2**step),
            beta3=self.beta3,
            fresh3=1 - self.beta3,
            root_n_correct=1 / sqrt(1 - self.beta3**step),
            eps=self.eps,
            shrink=1 / (1 + self.lr * self.weight_decay),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        change = c.has_previous * (grad - state.last)
        ahead = grad + c.beta2 * change
        m = c.beta1 * state.m + c.fresh1 * grad
        v = c.beta2 * state.v + c.fresh2 * change
        n = c.beta3 * state.n + c.fresh3 * (ahead * ahead)
        d = (c.m_correct * m + c.v_correct * v) / (c.root_n_correct * root(n) + c.eps)
        return d, state._replace(m=m, v=v, n=n, last=grad)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return decay.decoupled(param - c.lr * direction, c), state
