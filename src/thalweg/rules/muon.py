"""Muon: momentum whose matrix is made orthogonal, so that a step moves all directions alike.

    B_t = μ B_{t-1} + (1 - μ) g_t
    O_t = orthogonal part of B_t                  Nesterov: of (1 - μ) g_t + μ B_t
    θ_t = (1 - ηλ) θ_{t-1} - η κ O_t              κ = √max(1, rows / columns), or 0.2 √max(rows, columns)

The orthogonal part U Vᵀ of U S Vᵀ is found to a few tenths by k steps of X ← a X + (b X Xᵀ + c (X Xᵀ)²) X from
X = B_t / max(‖B_t‖, ε). Its a, b and c are Jordan's at each step, or each step's of Polar Express, which finds it to
any accuracy.

Use: hidden matrices of transformers and filters of convolutions; with κ of the second kind at AdamW's η and λ.
Avoid: embeddings, heads, norms and biases: give those to AdamW.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the second κ: Liu et al. 2025, arXiv:2502.16982;
Polar Express: Amsel et al. 2025, arXiv:2505.16932.
Departs: as torch.optim.Muon, but computed in the parameter's precision (float32 for halves), where torch takes
bfloat16; parameters with more dimensions become (first, rest).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.core.hyper import Scalar, choice, count, epsilon, hyper, learning_rate, mean_decay, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.matrices import (
    JORDAN_COEFFICIENTS,
    MIN_NORM,
    as_matrix,
    iteration_polynomials,
    matrix_shape,
    newton_schulz,
    polynomial_choice,
)


@dataclass(frozen=True, kw_only=True)
class Muon(decay.Decoupled, scope="matrix", supports_complex=False, min_dims=2):
    """Momentum whose matrix is made orthogonal, so that a step moves all directions alike."""

    lr: Scalar = learning_rate(1e-3, low=1e-4, high=1.0)
    weight_decay: Scalar = decay.shrinkage(0.1)
    momentum: Scalar = mean_decay(0.95, symbol="μ", keyword=None)
    nesterov: bool = switch(True, doc="look ahead along the buffer")
    a: Scalar = hyper(JORDAN_COEFFICIENTS[0], "> 0", symbol="a", doc="of the iteration", keyword="ns_coefficients")
    b: Scalar = hyper(
        JORDAN_COEFFICIENTS[1], "[-inf, inf]", symbol="b", doc="of the iteration", keyword="ns_coefficients"
    )
    c: Scalar = hyper(
        JORDAN_COEFFICIENTS[2], "[-inf, inf]", symbol="c", doc="of the iteration", keyword="ns_coefficients"
    )
    eps: Scalar = epsilon(MIN_NORM, place="the least norm")
    ns_steps: int = count(5, ">= 1", symbol="k", doc="steps of the iteration")
    adjust_lr_fn: str = choice("original", "match_rms_adamw", doc="which κ scales the step")
    polynomials: str = polynomial_choice()

    def check_consistency(self) -> None:
        if self.polynomials != "jordan" and (self.a, self.b, self.c) != JORDAN_COEFFICIENTS:
            raise SettingError(
                f"{self.name}: ns_coefficients are those of polynomials='jordan', got ({self.a}, {self.b}, {self.c}) "
                f"with polynomials={self.polynomials!r}, which has its own. Leave one of them out."
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

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        buffer = c.momentum * state.buffer + c.fresh * grad
        ahead = c.fresh * grad + c.momentum * buffer if self.nesterov else buffer
        chosen = iteration_polynomials(self.polynomials, self.ns_steps, (c.a, c.b, c.c))
        part = newton_schulz(as_matrix(ahead), chosen, c.eps)
        rows, columns = matrix_shape(param.shape)
        matched = self.adjust_lr_fn == "match_rms_adamw"
        kappa = 0.2 * max(rows, columns) ** 0.5 if matched else max(1, rows / columns) ** 0.5
        return kappa * part.reshape(param.shape), state._replace(buffer=buffer)
