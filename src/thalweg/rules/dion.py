"""Dion: Muon of low rank, from one power iteration; the momentum keeps the part that a step leaves out.

    B_t = M_{t-1} + g_t
    P_t = orthonormal columns of B_t Q_{t-1}          (QR)
    R_t = B_tᵀ P_t
    M_t = B_t - (1 - μ) P_t R_tᵀ
    Q_t = columns of R_t over (their norms + ε)       Q_0 = the first columns of I;  Q_{t-1} where B_t = 0
    θ_t = (1 - ηλ) θ_{t-1} - η √(rows / columns) P_t Q_tᵀ

The rank is the share ϱ of the smaller side, and at least 1.

Use: hidden matrices that are spread over many devices or are too large for Muon's iteration.
Avoid: embeddings, heads, norms and biases, as with Muon.
Source: Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan & Langford 2025, arXiv:2504.05295, Algorithm 1.
Departs: the rank is rounded to the nearest integer. The paper leaves this open.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import as_matrix, matrix_shape
from thalweg.rules.math.roots import as_divisor


def _factor_shape(rule: Any, shape: torch.Size) -> torch.Size:
    rows, columns = matrix_shape(shape)
    return torch.Size([columns, max(1, round(rule.rank_fraction * min(rows, columns)))])


def _first_factor(rule: Any, param: Tensor) -> Tensor:
    columns, rank = _factor_shape(rule, param.shape)
    return torch.eye(columns, rank, dtype=param.dtype, device=param.device)


@dataclass(frozen=True, kw_only=True)
class Dion(decay.Decoupled, scope="matrix", supports_complex=False, min_dims=2):
    """Muon of low rank, from one power iteration; the momentum keeps the part that a step leaves out."""

    lr: Scalar = learning_rate(0.01, low=1e-4, high=1.0)
    momentum: Scalar = mean_decay(0.95, symbol="μ", keyword=None)
    rank_fraction: Scalar = hyper(0.25, "(0, 1]", symbol="ϱ", doc="rank of a step, as a share of the smaller side")
    eps: Scalar = epsilon(1e-8, place="added to the norms")
    weight_decay: Scalar = decay.shrinkage(0.01)

    class State:
        m = like_param(unit="g", key="momentum_buffer")
        factor = of_shape(_factor_shape, unit="1", key="right_factor", init=_first_factor)

    @property
    def code_key(self) -> Hashable:
        return super().code_key, self.rank_fraction  # the share decides the shape of the factor

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, removed=1 - self.momentum, eps=self.eps, shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        b = as_matrix(state.m + grad)
        size = b.abs().amax()
        is_zero = size == 0  # False for NaN
        scale = as_divisor(size)  # The square of an element may be too large or too small for the dtype.
        b = b / scale
        left, triangle = torch.linalg.qr(b @ state.factor)
        left = torch.where(triangle.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) < 0, -left, left)
        right = b.mT @ left
        m = scale * (b - c.removed * (left @ right.mT))
        norms = torch.linalg.vector_norm(right, dim=-2, keepdim=True)
        factor = torch.where(is_zero, state.factor, (scale * right) / (scale * norms + c.eps))
        rows, columns = matrix_shape(param.shape)
        step = (rows / columns) ** 0.5 * torch.where(is_zero, torch.zeros_like(b), left @ factor.mT)
        return step.reshape(param.shape), state._replace(m=m.reshape(param.shape), factor=factor)
