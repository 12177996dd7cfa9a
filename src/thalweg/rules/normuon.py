"""NorMuon: Muon with each row divided by a running root mean square of that row.

    B_t = μ B_{t-1} + (1 - μ) g_t
    O_t = orthogonal part of (1 - μ) g_t + μ B_t (without Nesterov: of B_t), as in Muon, in k steps
    v_t = β₂ v_{t-1} + (1 - β₂) mean of O_t² over columns
    Ô_t = O_t / (√v_t + ε)
    θ_t = (1 - ηλ) θ_{t-1} - η 0.2 √(rows × columns) Ô_t / ‖Ô_t‖

Use: hidden matrices, as with Muon, at AdamW's η and λ.
Avoid: embeddings, heads, norms and biases, as with Muon.
Source: Li et al. 2025, arXiv:2510.05491, Algorithm 1.
Departs: Nesterov's momentum, as in the authors' code; the norm in Muon's iteration, as in torch.optim.Muon; the
polynomials of Polar Express as an option; the precision of products of matrices, as in Muon.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, count, epsilon, learning_rate, mean_decay, square_decay, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import RequestGenerator
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import (
    MIN_NORM,
    as_matrix,
    frobenius_norm,
    iteration_polynomials,
    matrix_shape,
    polynomial_choice,
    product_precision,
)
from thalweg.rules.math.operations import Orthogonal
from thalweg.rules.math.roots import as_divisor, root


def _rows_shape(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([matrix_shape(shape)[0], 1])


@dataclass(frozen=True, kw_only=True)
class NorMuon(decay.Decoupled, scope="matrix", requests_operations=True, supports_complex=False, min_dims=2):
    """Muon with each row divided by a running root mean square of that row."""

    lr: Scalar = learning_rate(1e-3)
    momentum: Scalar = mean_decay(0.95, symbol="μ", keyword=None)
    beta2: Scalar = square_decay(0.95, keyword=None)
    nesterov: bool = switch(True, doc="use Nesterov's momentum")
    ns_steps: int = count(5, "[1, 100)", symbol="k", doc="number of iteration steps")
    eps: Scalar = epsilon(1e-8, unit="1")
    weight_decay: Scalar = decay.shrinkage()
    polynomials: str = polynomial_choice()
    products: str = product_precision()

    class State:
        buffer = like_param(unit="g", key="momentum_buffer")
        v = of_shape(_rows_shape, unit="1", key="row_sq")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            momentum=self.momentum,
            fresh=1 - self.momentum,
            beta2=self.beta2,
            fresh2=1 - self.beta2,
            eps=self.eps,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        buffer = c.momentum * state.buffer + c.fresh * grad
        ahead = c.fresh * grad + c.momentum * buffer if self.nesterov else buffer
        iteration = iteration_polynomials(self.polynomials, self.ns_steps)
        orthogonal = yield Orthogonal(as_matrix(ahead), iteration, MIN_NORM, self.products)
        v = c.beta2 * state.v + c.fresh2 * (orthogonal * orthogonal).mean(-1, keepdim=True)
        scaled = orthogonal / (root(v) + c.eps)
        # A gradient of zero gives no step. Any other, however small, gives one of full size.
        direction = 0.2 * param.numel() ** 0.5 * (scaled / as_divisor(frobenius_norm(scaled)))
        return direction.reshape(param.shape), state._replace(buffer=buffer, v=v)
