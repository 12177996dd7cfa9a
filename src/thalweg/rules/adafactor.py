"""Adafactor: a mean square stored as row and column means, with relative steps and clipped updates.

    β_t = 1 - t^τ                                           η_t = min(η, 1/√t)
    R_t = β_t R_{t-1} + (1 - β_t) mean of g_t² over columns       C_t likewise over rows
    V_t = R_t C_t / mean of R_t                             (V_t = β_t V_{t-1} + (1 - β_t) g_t² below two dimensions)
    u_t = g_t / √max(V_t, ε₁²)
    θ_t = (1 - ηλ) θ_{t-1} - η_t max(ε₂, RMS(θ_{t-1})) u_t / max(1, RMS(u_t) / d)

Use: models whose optimizer state does not fit into memory: it stores almost nothing for a matrix.
Avoid: models whose optimizer state fits into memory: AdamW trains more steadily.
Source: Shazeer & Stern 2018, arXiv:1804.04235, Algorithm 4.
Departs: decoupled weight decay, the machine epsilon of the dtype as ε₁, and no momentum, as in torch.optim.Adafactor.
The statistics are taken over the last two dimensions.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, hyper
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Mean
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.factored import is_factored, is_unfactored, reconstruct, update_factors
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class Adafactor(decay.Decoupled, scope="tensor", supports_complex=False):
    """A mean square stored as row and column means, with relative steps and clipped updates."""

    lr: Scalar = hyper(1e-2, ">= 0", symbol="η", search=Range(1e-4, 1.0, "log"), order=1, doc="largest relative step")
    beta2_decay: Scalar = hyper(-0.8, "[-1, 0]", symbol="τ", doc="exponent of the decay 1 - t^τ of the mean square")
    eps1: Scalar = hyper(
        0.0,
        ">= 0",
        symbol="ε₁",
        unit="g",
        doc="smallest root mean square; 0: machine epsilon of the dtype",
        keyword="eps",
        place="lower bound of the root",
    )
    eps2: Scalar = hyper(1e-3, ">= 0", symbol="ε₂", unit="θ", doc="smallest scale of a parameter", keyword="eps")
    d: Scalar = hyper(1.0, ">= 1", symbol="d", doc="largest root mean square of an update")
    weight_decay: Scalar = decay.shrinkage()

    class State:
        rows = like_param(unit="g²", key="row_var", reduced_dim=-1, when=is_factored)
        columns = like_param(unit="g²", key="col_var", reduced_dim=-2, when=is_factored)
        v = like_param(unit="g²", key="variance", when=is_unfactored)

    def coefficients(self, step: int) -> Any:
        return record(
            lr=min(self.lr, 1 / sqrt(step)),
            fresh=step**self.beta2_decay,
            keep=1 - step**self.beta2_decay,
            eps1=self.eps1,
            eps_of_dtype=float(self.eps1 == 0),
            eps2=self.eps2,
            d=self.d,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        min_root = c.eps_of_dtype * torch.finfo(grad.dtype).eps + c.eps1
        square = grad * grad
        if grad.dim() > 1:
            rows, columns = yield from update_factors(square, state.rows, state.columns, c.keep, c.fresh)
            state = state._replace(rows=rows, columns=columns)
            estimate = yield from reconstruct(rows, columns, min_mean=min_root)
        else:
            estimate = c.keep * state.v + c.fresh * square
            state = state._replace(v=estimate)
        estimate = torch.clamp(estimate, min=min_root * min_root)
        rms = root((yield Mean(square / estimate)))
        update = grad / root(estimate)
        scale = torch.clamp(root((yield Mean(param * param))), min=c.eps2)
        return update * (scale / torch.clamp(rms / c.d, min=1.0)), state
