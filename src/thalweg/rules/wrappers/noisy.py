"""Noisy: gradients with added Gaussian noise that fades during training.

    g_t ← g_t + σ_t z_t,   z_t ~ N(0, 1),   σ_t² = s / (1 + t)^γ        θ_t by the inner rule, with this g_t

Use: deep networks that start badly, or that stay in a poor minimum or on a plateau.
Avoid: training with small batches, which has enough noise.
Source: Neelakantan et al. 2015, arXiv:1511.06807, equation 1.
Departs: nothing. The noise is a hash of the seed, parameter, step and element, so a resumed run adds the same noise.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.math.hashing import standard_normal
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class Noisy(Wrapper, scope="tensor", uses_random_numbers=True):
    """Gradients with added Gaussian noise that fades during training."""

    noise: Scalar = hyper(0.01, ">= 0", symbol="s", unit="g²", doc="variance of the noise before it fades")
    fading: Scalar = hyper(0.55, ">= 0", symbol="γ", doc="exponent of the fading")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"sigma": sqrt(self.noise / (1 + step) ** self.fading)}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad + c.sigma * standard_normal(grad, c), state
