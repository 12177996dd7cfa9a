"""Scion: steps to the best point of a norm ball: an orthogonal matrix, or signs for other parameters.

    b_t = μ b_{t-1} + (1 - μ) g_t
    o_t = √max(1, rows / columns) × orthogonal part of b_t, as in Muon, in k steps;  below two dimensions sign(b_t)
    θ_t = (1 - η) θ_{t-1} - η ρ o_t        unconstrained: θ_{t-1} - η ρ o_t

With `constrained`, the parameters stay within a ball of radius ρ, so they need no weight decay.

Use: whole networks with one rule, and a learning rate that transfers from narrow to wide networks.
Avoid: embeddings and heads with the radius of hidden matrices: put them into a separate group.
Source: Pethick et al. 2025, arXiv:2502.07529, Algorithms 1 and 2.
Departs: μ is the weight of the old average (the paper's α is 1 - μ). The factor is at least 1, which is an option in
the authors' code. Biases use signs. The norm in the iteration is that of torch.optim.Muon. The polynomials of Polar
Express are an option, and the precision of products of matrices, as in Muon.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, count, hyper, learning_rate, mean_decay, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import RequestGenerator
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import (
    MIN_NORM,
    as_matrix,
    iteration_polynomials,
    matrix_shape,
    polynomial_choice,
    product_precision,
)
from thalweg.rules.math.operations import Orthogonal


@dataclass(frozen=True, kw_only=True)
class Scion(decay.Decoupled, scope="matrix", requests_operations=True, supports_complex=False):
    """Steps to the best point of a norm ball: an orthogonal matrix, or signs for other parameters."""

    lr: Scalar = learning_rate(3e-4, low=1e-5, high=0.1, unit="1")
    momentum: Scalar = mean_decay(0.9, symbol="μ", keyword=None)
    radius: Scalar = hyper(50.0, "> 0", symbol="ρ", unit="θ", search=Range(1.0, 1000.0, "log"), doc="ball radius")
    constrained: bool = switch(True, doc="keep the parameters within the ball")
    ns_steps: int = count(5, "[1, 100)", symbol="k", doc="number of iteration steps")
    polynomials: str = polynomial_choice()
    products: str = product_precision()

    class State:
        b = like_param(unit="g", key="momentum_buffer")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr * self.radius,
            momentum=self.momentum,
            fresh=1 - self.momentum,
            shrink=1 - self.lr if self.constrained else 1.0,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        b = c.momentum * state.b + c.fresh * grad
        if param.dim() < 2:
            return torch.sign(b), state._replace(b=b)
        rows, columns = matrix_shape(param.shape)
        iteration = iteration_polynomials(self.polynomials, self.ns_steps)
        orthogonal = yield Orthogonal(as_matrix(b), iteration, MIN_NORM, self.products)
        return max(1, rows / columns) ** 0.5 * orthogonal.reshape(param.shape), state._replace(b=b)
