"""AdamMini: AdamW with one mean square for each row instead of one for each element.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t                             m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) mean of g_t² over the block     v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + ε)

A block is a row or filter (one index of the first dimension). A bias or gain is one block.

Use: language models with AdamW's settings: it stores half of AdamW's state.
Avoid: fused attention projections in which each head should be one block: here each row is one block, which is finer
and costs nothing.
Source: Zhang et al. 2024, arXiv:2406.16793, Algorithm 1.
Departs: blocks are always rows. The paper uses heads for queries and keys, and rows (neurons, tokens) for other
parameters.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root
from thalweg.rules.math.units import unit_mean


def _blocks(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([shape[0], *[1] * (len(shape) - 1)]) if len(shape) > 1 else torch.Size([])


@dataclass(frozen=True, kw_only=True)
class AdamMini(decay.Decoupled, scope="tensor", corrects_bias=True, supports_complex=False):
    """AdamW with one mean square for each row instead of one for each element."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.95)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage(0.1)

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = of_shape(_blocks, unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        m = c.beta1 * state.m + c.fresh1 * grad
        v = c.beta2 * state.v + c.fresh2 * (yield from unit_mean(grad * grad))
        return m * (c.m_correct * (c.root_v_correct * root(v) + c.eps).reciprocal()), state._replace(m=m, v=v)
