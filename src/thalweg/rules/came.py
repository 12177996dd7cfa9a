"""CAME: Adafactor with momentum, and with steps scaled by the agreement of an update with its mean.

    R_t, C_t, V_t and u_t = g_t / √V_t as in Adafactor, from g_t² + ε₁, with β₂
    u_t ← u_t / max(1, RMS(u_t) / d)
    m_t = β₁ m_{t-1} + (1 - β₁) u_t
    S_t = row and column means, with β₃, of (u_t - m_t)² + ε₂, combined as in V_t
    θ_t = (1 - ηλ) θ_{t-1} - η m_t / √S_t        below two dimensions: η m_t

Use: large language models: it stores half of AdamW's state.
Avoid: models whose AdamW state fits into memory.
Source: Luo, Ren, Zheng, Jiang, Jiang & You 2023, arXiv:2307.02047, Algorithm 2.
Departs: decoupled weight decay, and no confidence factor √S_t below two dimensions, as in the authors' code.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Mean
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.factored import is_factored, is_unfactored, reconstruct_root, update_factors
from thalweg.rules.math.roots import as_divisor, root


@dataclass(frozen=True, kw_only=True)
class CAME(decay.Decoupled, scope="tensor", supports_complex=False):
    """Adafactor with momentum, and with steps scaled by the agreement of an update with its mean."""

    lr: Scalar = learning_rate(2e-4)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    beta3: Scalar = square_decay(0.9999, symbol="β₃")
    eps1: Scalar = hyper(
        1e-30, ">= 0", symbol="ε₁", unit="g²", doc="added to squared gradients", place="added to the square"
    )
    eps2: Scalar = hyper(1e-16, ">= 0", symbol="ε₂", doc="added to squared deviations", place="added to the square")
    clip: Scalar = hyper(1.0, "> 0", symbol="d", doc="largest root mean square of an update")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="1", key="exp_avg")
        rows = like_param(unit="g²", key="exp_avg_sq_row", reduced_dim=-1, when=is_factored)
        columns = like_param(unit="g²", key="exp_avg_sq_col", reduced_dim=-2, when=is_factored)
        deviation_rows = like_param(unit="1", key="exp_avg_res_row", reduced_dim=-1, when=is_factored)
        deviation_columns = like_param(unit="1", key="exp_avg_res_col", reduced_dim=-2, when=is_factored)
        v = like_param(unit="g²", key="exp_avg_sq", when=is_unfactored)

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            beta3=self.beta3,
            fresh3=1 - self.beta3,
            eps1=self.eps1,
            eps2=self.eps2,
            clip=self.clip,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        square = grad * grad + c.eps1
        if grad.dim() > 1:
            rows, columns = yield from update_factors(square, state.rows, state.columns, c.beta2, c.fresh2)
            state = state._replace(rows=rows, columns=columns)
            estimate = yield from reconstruct_root(rows, columns)
        else:
            v = c.beta2 * state.v + c.fresh2 * square
            estimate, state = root(as_divisor(v)), state._replace(v=v)
        u = grad / estimate
        rms = root((yield Mean(u * u)))
        u = u * torch.clamp(rms / c.clip, min=1.0).reciprocal()
        m = c.beta1 * state.m + c.fresh1 * u
        state = state._replace(m=m)
        if grad.dim() < 2:
            return m, state
        deviation = (u - m) * (u - m) + c.eps2
        rows, columns = yield from update_factors(
            deviation, state.deviation_rows, state.deviation_columns, c.beta3, c.fresh3
        )
        state = state._replace(deviation_rows=rows, deviation_columns=columns)
        return m / (yield from reconstruct_root(rows, columns)), state
