"""ADOPT: AdamW that divides each gradient by the previous root mean square and then averages the results.

    k_t = clip(g_t / max(√v_{t-1}, ε), ±(t - 1)^(1/4))
    m_t = β₁ m_{t-1} + (1 - β₁) k_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²              v_1 = g_1²,  m_1 = 0
    θ_t = (1 - ηλ) θ_{t-1} - η m_t                θ_1 = θ_0

The first step initializes v and does not move the parameters.

Use: in place of AdamW, if β₂ would have to be tuned: ADOPT converges for every β₂.
Avoid: training of a few steps: the first step does nothing.
Source: Taniguchi et al. 2024, arXiv:2411.02853, Algorithm 2; the clipping is that of a later version and of the
authors' code.
Departs: decoupled weight decay, as in the authors' code.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class ADOPT(decay.Decoupled, scope="elementwise"):
    """AdamW that divides each gradient by the previous root mean square and then averages the results."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.9999)
    eps: Scalar = epsilon(1e-6, place="lower bound of the root")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="1", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        limit = (step - 1) ** 0.25
        keep = self.beta2 if step > 1 else 0.0
        return record(
            lr=self.lr,
            low=-limit,
            high=limit,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            keep=keep,
            fresh2=1 - keep,
            eps=self.eps,
            shrink=decay.shrink(self) if step > 1 else 1.0,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        k = torch.clamp(grad / torch.clamp(root(state.v), min=c.eps), min=c.low, max=c.high)
        m = c.beta1 * state.m + c.fresh1 * k
        return m, state._replace(m=m, v=c.keep * state.v + c.fresh2 * (grad * grad))
