"""SOAP: Adam in the basis of the eigenvectors of Shampoo's matrices.

    H_i ← β H_i + (1 - β) g_t g_tᵀ           for each dimension i, the product summed over all others, after the step
    Q_i = eigenvectors of H_i, by one power iteration and QR every n steps, in falling order of eigenvalues
    g'_t = g_t rotated into the basis Q
    m_t = β₁ m_{t-1} + (1 - β₁) g'_t          in the basis Q, and rotated with it
    v_t = β₂ v_{t-1} + (1 - β₂) g'_t²         in the basis Q, and reordered with it
    d_t = m_t / (√v_t + ε), rotated back
    θ_t = (1 - ηλ) (θ_{t-1} - η √(1 - β₂^(t-1)) / (1 - β₁^(t-1)) d_t)

The first step only initializes H and Q. Some dimensions are not rotated: a dimension larger than N, with one_sided the
largest dimension (the first of several), and unless precondition_1d is set those of vectors and of matrices of one row
or column. A parameter without a rotated dimension is updated by Adam, one step late.

Use: language models and image models with larger batches, at AdamW's settings with a larger η. With one_sided it takes
a quarter of the time on the matrices of a transformer.
Avoid: dimensions of many thousands: each needs square matrices of its size. Vectors with precondition_1d: few gradients
determine few eigenvectors of a vector, and rounding determines the others.
Source: Vyas et al. 2024, arXiv:2409.11321, Algorithm 3.
Departs: the first step, ε before the correction, the decay after the step, N, and vectors that are not rotated, as in
the authors' code, except that matrices of one row or column count as vectors. m is stored in the basis in which it is
used; only rounding differs. β is β₂ by default. In the
paper, one-sided applies to matrices only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, count, epsilon, hyper, learning_rate, mean_decay, square_decay, switch
from thalweg.rules.core.matrix_requests import OperationGroup
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import RequestGenerator
from thalweg.rules.core.rule import MAX_DIMS, Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import averaged_mode_gram, matrix_per_dim, mode_product
from thalweg.rules.math.operations import Eigenbasis, PowerIteration
from thalweg.rules.math.roots import root


def _dims(rule: Any, shape: torch.Size) -> list[int]:
    """Return the dimensions that are rotated."""
    is_vector = sum(size > 1 for size in shape) < 2
    if is_vector and not rule.precondition_1d:
        return []
    largest = max(range(len(shape)), key=shape.__getitem__, default=None) if rule.one_sided else None
    return [dim for dim, size in enumerate(shape) if size <= rule.max_dim and dim != largest]


@dataclass(frozen=True, kw_only=True)
class SOAP(
    Rule,
    scope="matrix",
    requests_operations=True,
    corrects_bias=True,
    supports_complex=False,
    max_dims=MAX_DIMS,
    supports_vmap=False,
):
    """Adam in the basis of the eigenvectors of Shampoo's matrices."""

    lr: Scalar = learning_rate(3e-3)
    beta1: Scalar = mean_decay(0.95)
    beta2: Scalar = square_decay(0.95)
    shampoo_beta: Scalar = hyper(-1.0, "[-1, 1)", symbol="β", doc="decay of the matrices; below 0: β₂")
    eps: Scalar = epsilon(1e-8)
    update_every: int = count(10, ">= 1", symbol="n", doc="steps between two updates of the basis")
    max_dim: int = count(10_000, ">= 1", symbol="N", doc="largest dimension that is rotated")
    one_sided: bool = switch(False, doc="do not rotate the largest dimension")
    precondition_1d: bool = switch(False, doc="rotate vectors, and matrices of one row or column, too")
    weight_decay: Scalar = decay.shrinkage(0.01)

    State = type(  # type: ignore[assignment]  # one field for each possible dimension
        "State",
        (),
        {
            "m": like_param(unit="g", key="exp_avg"),
            "v": like_param(unit="g²", key="exp_avg_sq"),
            **matrix_per_dim("h", unit="g²", key="precond", dims=_dims),
            **matrix_per_dim("q", unit="1", key="basis", dims=_dims),
        },
    )

    def coefficients(self, step: int) -> Any:
        keep = self.shampoo_beta if self.shampoo_beta >= 0 else self.beta2
        completed = step - 1
        size = (1 - self.beta2**completed) ** 0.5 / (1 - self.beta1**completed) if completed else 0.0
        return record(
            lr=self.lr,
            beta1=self.beta1,
            fresh1=1 - self.beta1,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            size=size,
            keep=keep,
            fresh=1 - keep,
            is_first=float(completed == 0),
            updates_basis=float(completed > 0 and completed % self.update_every == 0),
            eps=self.eps,
            shrink=decay.shrink(self) if completed else 1.0,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        dims = _dims(self, grad.shape)
        updates = {f"h{dim}": averaged_mode_gram(getattr(state, f"h{dim}"), grad, dim, c.keep, c.fresh) for dim in dims}
        if c.is_first:
            bases = yield OperationGroup([Eigenbasis(updates[f"h{dim}"]) for dim in dims])
            updates |= {f"q{dim}": basis for dim, basis in zip(dims, bases, strict=True)}
            return torch.zeros_like(grad), state._replace(**updates)
        rotated_grad = grad
        for dim in dims:
            rotated_grad = mode_product(rotated_grad, getattr(state, f"q{dim}"), dim)
        m = c.beta1 * state.m + c.fresh1 * rotated_grad
        # A rotation may gather a gradient in one number, whose square is too large for the dtype.
        v = c.beta2 * state.v + c.fresh2 * (rotated_grad * rotated_grad)
        v = torch.clamp(v, max=torch.finfo(v.dtype).max)
        d = c.size * m / (root(v) + c.eps)
        old_bases = [getattr(state, f"q{dim}") for dim in dims]
        for dim, basis in zip(dims, old_bases, strict=True):
            d = mode_product(d, basis.mT, dim)
        if c.updates_basis:
            iterations = [PowerIteration(basis, updates[f"h{dim}"]) for dim, basis in zip(dims, old_bases, strict=True)]
            turned = yield OperationGroup(iterations)
            for dim, old_basis, (new_basis, order) in zip(dims, old_bases, turned, strict=True):
                updates[f"q{dim}"] = new_basis
                m = mode_product(mode_product(m, old_basis.mT, dim), new_basis, dim)
                v = v.index_select(dim, order)
        return d, state._replace(m=m, v=v, **updates)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return decay.decoupled(param - c.lr * direction, c), state
