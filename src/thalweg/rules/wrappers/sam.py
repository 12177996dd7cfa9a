"""SAM: gradients at the nearby point where the loss is highest, so that flat minima are preferred.

    N_t = √(Σ over all parameters of ∇f(θ_{t-1})²)
    g_t = ∇f(θ_{t-1} + ρ ∇f(θ_{t-1}) / (N_t + 10⁻¹²))        θ_t by the inner rule, with this g_t

A step needs two gradients: by a closure, or in `with optimizer.perturbed():`.

Use: image classification with SGD or AdamW, if a better test score is worth twice the training time.
Avoid: training that is limited by time and not by generalization. Layers with running statistics count each batch
twice.
Source: Foret, Kleiner, Mobahi & Neyshabur 2021, arXiv:2010.01412, Algorithm 1.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Range, Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator

_NORM_EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class SAM(Wrapper, needs="second gradient"):
    """Gradients at the nearby point where the loss is highest, so that flat minima are preferred."""

    rho: Scalar = hyper(
        0.05, ">= 0", symbol="ρ", unit="θ", search=Range(0.005, 0.5, "log"), doc="distance of the second gradient"
    )

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"rho": self.rho}

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> ReductionGenerator:
        norm = yield Norm(grad, over="model")
        return param + grad * (c.rho * (norm + _NORM_EPS).reciprocal())
