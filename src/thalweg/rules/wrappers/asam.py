"""ASAM: SAM with a neighbourhood that is wider for larger parameters.

    T = |θ_{t-1}| + η
    g_t = ∇f(θ_{t-1} + ρ T² ∇f(θ_{t-1}) / (‖T ∇f(θ_{t-1})‖ + 10⁻¹²))        θ_t by the inner rule

A step needs two gradients: by a closure, or in `with optimizer.perturbed():`. The norm is over the whole model.

Use: the same problems as SAM, if layers differ much in scale. ρ is about ten times that of SAM.
Avoid: the same cases as SAM.
Source: Kwon, Kim, Park & Choi 2021, arXiv:2102.11600, Algorithm 1 with p = 2, elementwise.
Departs: T is |θ| + η for biases too. For biases the authors' code uses 1; it adds 10⁻¹⁶ to the norm.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Range, Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator

_NORM_EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class ASAM(Wrapper, needs="second gradient"):
    """SAM with a neighbourhood that is wider for larger parameters."""

    rho: Scalar = hyper(
        0.5,
        ">= 0",
        symbol="ρ",
        unit="1",
        search=Range(0.05, 5.0, "log"),
        doc="distance of the second gradient, relative to the parameter",
    )
    offset: Scalar = hyper(0.01, ">= 0", symbol="η", unit="θ", doc="width at a parameter of zero")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"rho": self.rho, "offset": self.offset}

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> ReductionGenerator:
        width = param.abs() + c.offset
        scaled = width * grad
        norm = yield Norm(scaled, over="model")
        return param + width * scaled * (c.rho * (norm + _NORM_EPS).reciprocal())
