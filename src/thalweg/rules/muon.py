"""Muon: orthogonalized momentum, so that a step moves all directions of a matrix by the same amount.

    B_t = μ B_{t-1} + (1 - μ) g_t
    O_t = orthogonal part of B_t                  Nesterov: of (1 - μ) g_t + μ B_t
    θ_t = (1 - ηλ) θ_{t-1} - η κ O_t              κ = √max(1, rows / columns), or 0.2 √max(rows, columns)

The orthogonal part of U S Vᵀ is U Vᵀ. It is approximated to a few tenths by k steps of X ← a X + (b X Xᵀ + c (X Xᵀ)²) X
from X = B_t / max(‖B_t‖, ε). Jordan's a, b and c are the same in all steps. Polar Express has its own a, b and c for
each step and approximates to any accuracy.

Use: hidden matrices of transformers and filters of convolutions. With the second κ, AdamW's η and λ fit.
Avoid: embeddings, heads, norms and biases: use AdamW for them.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the second κ: Liu et al. 2025, arXiv:2502.16982; Polar
Express: Amsel et al. 2025, arXiv:2505.16932.
Departs: it follows torch.optim.Muon, with two changes. Products of matrices are rounded as `products` says, and state
and step keep the parameter's precision (float32 for 16-bit parameters), while torch uses bfloat16. By default products
keep it too, except on CUDA, where they are rounded to float16. In float16 the orthogonal part of a normal matrix of 256
rows errs by 0.0013 of its size, in bfloat16 by 0.01. It reshapes parameters with more than two dimensions to (first,
rest).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.core.hyper import Scalar, choice, count, epsilon, hyper, learning_rate, mean_decay, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import RequestGenerator
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import (
    JORDAN_COEFFICIENTS,
    MIN_NORM,
    as_matrix,
    iteration_polynomials,
    matrix_shape,
    polynomial_choice,
    product_precision,
)
from thalweg.rules.math.operations import Orthogonal


@dataclass(frozen=True, kw_only=True)
class Muon(decay.Decoupled, scope="matrix", requests_operations=True, supports_complex=False, min_dims=2):
    """Orthogonalized momentum, so that a step moves all directions of a matrix by the same amount."""

    lr: Scalar = learning_rate(1e-3, low=1e-4, high=1.0)
    weight_decay: Scalar = decay.shrinkage(0.1)
    momentum: Scalar = mean_decay(0.95, symbol="μ", keyword=None)
    nesterov: bool = switch(True, doc="use Nesterov's momentum")
    a: Scalar = hyper(JORDAN_COEFFICIENTS[0], "> 0", symbol="a", doc="iteration coefficient", keyword="ns_coefficients")
    b: Scalar = hyper(
        JORDAN_COEFFICIENTS[1], "[-inf, inf]", symbol="b", doc="iteration coefficient", keyword="ns_coefficients"
    )
    c: Scalar = hyper(
        JORDAN_COEFFICIENTS[2], "[-inf, inf]", symbol="c", doc="iteration coefficient", keyword="ns_coefficients"
    )
    eps: Scalar = epsilon(MIN_NORM, place="lower bound of the norm")
    ns_steps: int = count(5, "[1, 100)", symbol="k", doc="number of iteration steps")
    adjust_lr_fn: str = choice("original", "match_rms_adamw", doc="formula of κ, which scales the step")
    polynomials: str = polynomial_choice()
    products: str = product_precision()

    def check_consistency(self) -> None:
        if self.polynomials != "jordan" and (self.a, self.b, self.c) != JORDAN_COEFFICIENTS:
            raise SettingError(
                f"{self.name}: ns_coefficients apply to polynomials='jordan' only, got ({self.a}, {self.b}, {self.c}) "
                f"with polynomials={self.polynomials!r}. Remove one of the two."
            )

    class State:
        buffer = like_param(unit="g", key="momentum_buffer")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            momentum=self.momentum,
            fresh=1 - self.momentum,
            a=self.a,
            b=self.b,
            c=self.c,
            eps=self.eps,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        buffer = c.momentum * state.buffer + c.fresh * grad
        ahead = c.fresh * grad + c.momentum * buffer if self.nesterov else buffer
        iteration = iteration_polynomials(self.polynomials, self.ns_steps, (c.a, c.b, c.c))
        orthogonal = yield Orthogonal(as_matrix(ahead), iteration, c.eps, self.products)
        rows, columns = matrix_shape(param.shape)
        matches_rms = self.adjust_lr_fn == "match_rms_adamw"
        kappa = 0.2 * max(rows, columns) ** 0.5 if matches_rms else max(1, rows / columns) ** 0.5
        return kappa * orthogonal.reshape(param.shape), state._replace(buffer=buffer)
