"""Shampoo: gradients multiplied, along each dimension, by an inverse root of the sum of gradient products.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    H_i = ε I + Σ g_t g_tᵀ        for each dimension i up to N, the product summed over all others
    d_t = g_t multiplied along each of these k dimensions by H_i^(-1/2k)
    b_t = μ b_{t-1} + d_t
    θ_t = θ_{t-1} - η b_t         the roots are computed again every n steps

Exact roots come from eigenvectors that are computed in float64. Native roots come from eigenvectors in the parameter's
own precision: they take about two thirds of the time, and they change a step in float32 by 5e-6 to 2e-3 of its size,
more for a steeper spectrum. Tracked roots take little more than half of the time: one power iteration and QR update the
last eigenvectors. This changes a step by 10 to 25 percent at the second root, and by 1 to 16 percent after a hundred
steps.

Use: matrices and convolutions of moderate size, with large batches, if curvature couples the parameters.
Avoid: dimensions of many thousands: each needs square matrices of its size. SOAP is easier to tune.
Source: Gupta, Koren & Singer 2018, arXiv:1802.09568, Algorithm 2.
Departs: momentum, an L2 penalty, and roots that may be older than the sums. A single number counts as one dimension. A
dimension larger than N is not scaled and does not count in k, as in Anil et al. 2020, arXiv:2002.09018.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, choice, count, epsilon, hyper, learning_rate
from thalweg.rules.core.matrix_requests import OperationGroup
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import RequestGenerator
from thalweg.rules.core.rule import MAX_DIMS, Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import (
    averaged_mode_gram,
    inverse_root_from_eigenpairs,
    matrix_per_dim,
    mode_product,
    normalized,
    rayleigh_quotients,
)
from thalweg.rules.math.operations import Eigenbasis, InverseRoot, PowerIteration


def _dims(rule: Any, shape: torch.Size) -> list[int]:
    """Return the dimensions that are scaled."""
    return [dim for dim, size in enumerate(shape or (1,)) if size <= rule.max_dim]


def _tracked_dims(rule: Any, shape: torch.Size) -> list[int]:
    """Return the dimensions whose eigenvectors are stored."""
    return _dims(rule, shape) if rule.roots == "tracked" else []


def _initial_sum(rule: Any, size: int, param: Tensor) -> Tensor:
    return rule.eps * torch.eye(size, dtype=param.dtype, device=param.device)


@dataclass(frozen=True, kw_only=True)
class Shampoo(
    Rule, scope="matrix", requests_operations=True, supports_complex=False, max_dims=MAX_DIMS, supports_vmap=False
):
    """Gradients multiplied, along each dimension, by an inverse root of the sum of gradient products."""

    lr: Scalar = learning_rate(0.1, low=1e-3, high=10.0)
    momentum: Scalar = hyper(
        0.0, "[0, 1)", symbol="μ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="weight of the last buffer"
    )
    eps: Scalar = epsilon(1e-4, place="on the diagonals", unit="g²")
    update_every: int = count(1, ">= 1", symbol="n", doc="steps between two computations of the roots")
    max_dim: int = count(8192, ">= 1", symbol="N", doc="largest dimension that is scaled")
    roots: str = choice("exact", "native", "tracked", doc="method to compute the roots")
    weight_decay: Scalar = decay.l2_penalty()

    State = type(  # type: ignore[assignment]  # one field for each possible dimension
        "State",
        (),
        {
            "b": like_param(unit="1", key="momentum_buffer", when=lambda rule, shape: rule.momentum != 0),
            **matrix_per_dim("h", unit="g²", key="precond", dims=_dims, init=_initial_sum),
            **matrix_per_dim("root", unit="1/g", key="inv_precond", dims=_dims),
            **matrix_per_dim("q", unit="1", key="basis", dims=_tracked_dims),
        },
    )

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            momentum=self.momentum,
            is_first=float(step == 1),
            updates_roots=float((step - 1) % self.update_every == 0),
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        g = decay.coupled(grad, param, c)
        g = g.reshape(grad.shape or (1,))
        d, dims = g, _dims(self, grad.shape)
        sums = [averaged_mode_gram(getattr(state, f"h{dim}"), g, dim, 1.0, 1.0) for dim in dims]
        updates = {f"h{dim}": h for dim, h in zip(dims, sums, strict=True)}
        if c.updates_roots:
            update = self._tracked_roots if self.roots == "tracked" else self._roots
            updates |= yield from update(sums, dims, state, c)
        for dim in dims:
            d = mode_product(d, updates.get(f"root{dim}", getattr(state, f"root{dim}")), dim)
        d, state = d.reshape(grad.shape), state._replace(**updates)
        if self.momentum == 0:
            return d, state
        b = c.momentum * state.b + d
        return b, state._replace(b=b)

    def _roots(self, sums: Sequence[Tensor], dims: Sequence[int], state: Any, c: Any) -> RequestGenerator:
        """Return the roots of the dimensions, each from eigenvectors of its own."""
        dtypes = [torch.float64 if self.roots == "exact" else h.dtype for h in sums]
        order = 2 * len(dims)
        roots = yield OperationGroup([InverseRoot(h, order, dtype) for h, dtype in zip(sums, dtypes, strict=True)])
        return {f"root{dim}": root for dim, root in zip(dims, roots, strict=True)}

    def _tracked_roots(self, sums: Sequence[Tensor], dims: Sequence[int], state: Any, c: Any) -> RequestGenerator:
        """Return the roots of the dimensions, and the eigenvectors that are stored."""
        scaled = [normalized(h) for h in sums]
        if c.is_first:
            bases = yield OperationGroup([Eigenbasis(h, torch.float64) for h, _ in scaled])
        else:
            last = (getattr(state, f"q{dim}") for dim in dims)
            turned = yield OperationGroup([PowerIteration(q, h) for q, (h, _) in zip(last, scaled, strict=True)])
            bases = [basis for basis, _ in turned]
        updates = {}
        for dim, basis, (h, scale) in zip(dims, bases, scaled, strict=True):
            values = rayleigh_quotients(h, basis)
            updates[f"q{dim}"] = basis
            updates[f"root{dim}"] = inverse_root_from_eigenpairs(basis, values, 2 * len(dims), h.dtype, scale)
        return updates
