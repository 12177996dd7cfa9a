"""StableAdamW: AdamW that shortens a tensor's step when its mean square lags behind the gradients.

    β̂ = β (1 - β^(t-1)) / (1 - βᵗ)        for β₁ and β₂, in place of bias correction
    m_t = β̂₁ m_{t-1} + (1 - β̂₁) g_t
    v_t = β̂₂ v_{t-1} + (1 - β̂₂) g_t²
    R_t = √mean(g_t² / max(v_t, ε²))       η_t = η / max(1, R_t)
    θ_t = (1 - η_t λ) θ_{t-1} - η_t m_t / (√v_t + ε)

Use: large batches and low precision, where AdamW's loss has spikes. It replaces gradient clipping.
Avoid: tensors of a few elements: noise alone makes R exceed 1, so steps are shorter than AdamW's without a spike. For
Gaussian gradients they have 0.91 of AdamW's size with one element, and 0.99 with a thousand.
Source: Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2.
Departs: nothing.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Mean
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class StableAdamW(Rule, scope="tensor", corrects_bias=True):
    """AdamW that shortens a tensor's step when its mean square lags behind the gradients."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.99)
    eps: Scalar = epsilon(1e-6)
    weight_decay: Scalar = decay.shrinkage(0.01, doc="shrinks the parameter by η_t λ per step", place=decay.IN_STEP)

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        keep1, keep2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in (self.beta1, self.beta2))
        return record(
            lr=self.lr,
            keep1=keep1,
            fresh1=1 - keep1,
            keep2=keep2,
            fresh2=1 - keep2,
            eps=self.eps,
            eps_squared=self.eps**2,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        square = grad * grad
        m = c.keep1 * state.m + c.fresh1 * grad
        v = c.keep2 * state.v + c.fresh2 * square
        lag = root((yield Mean(square / torch.clamp(v, min=c.eps_squared))))
        d = m / (root(v) + c.eps) + c.weight_decay * param
        return d * torch.clamp(lag, min=1.0).reciprocal(), state._replace(m=m, v=v)
