"""Lion: steps of constant size along the sign of a mean gradient.

    d_t = sign(β₁ m_{t-1} + (1 - β₁) g_t)
    m_t = β₂ m_{t-1} + (1 - β₂) g_t
    θ_t = (1 - ηλ) θ_{t-1} - η d_t

Use: large batches and long training, with half of Adam's state. Divide AdamW's η by three to ten, and multiply its λ by
the same factor.
Avoid: small batches: their noise decides the signs. AdamW's settings, if they are not converted.
Source: Chen et al. 2023, arXiv:2302.06675, Algorithm 2.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class Lion(decay.Decoupled, scope="elementwise"):
    """Steps of constant size along the sign of a mean gradient."""

    lr: Scalar = learning_rate(1e-4, low=1e-6, high=0.1)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = mean_decay(0.99, symbol="β₂")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="exp_avg")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        d = torch.sign(c.beta1 * state.m + c.fresh1 * grad)
        return d, state._replace(m=c.beta2 * state.m + c.fresh2 * grad)
