"""Signum: steps of constant size along the sign of the mean gradient; without momentum, signSGD.

    m_t = β m_{t-1} + (1 - β) g_t
    θ_t = (1 - ηλ) θ_{t-1} - η sign(m_t)

Use: distributed training that sends one bit per parameter, and as the simplest relative of Adam. With β = 0.965 and
weight decay it is Tiger, the cheapest substitute for AdamW on language models.
Avoid: training without a schedule that ends near zero: the steps do not shrink by themselves.
Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2; Tiger: Su 2023, github.com/bojone/tiger.
Departs: decoupled weight decay. Tiger has it, the paper does not.
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
class Signum(decay.Decoupled, scope="elementwise"):
    """Steps of constant size along the sign of the mean gradient; without momentum, signSGD."""

    lr: Scalar = learning_rate(1e-4, low=1e-6, high=0.1)
    momentum: Scalar = mean_decay(0.9, symbol="β", keyword=None)
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="momentum_buffer", when=lambda rule, shape: rule.momentum != 0)

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, momentum=self.momentum, fresh=1 - self.momentum, shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        if self.momentum == 0:
            return torch.sign(grad), state
        m = c.momentum * state.m + c.fresh * grad
        return torch.sign(m), state._replace(m=m)
