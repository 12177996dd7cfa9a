"""Orthogonalized: the part of the gradient orthogonal to the parameter, rescaled to the gradient's norm (OrthoGrad).

    p_t = g_t - (θ_{t-1}·g_t) / (θ_{t-1}·θ_{t-1} + ε) θ_{t-1}
    g_t ← p_t ‖g_t‖ / (‖p_t‖ + ε)        θ_t by the inner rule, with this g_t

Use: classification without weight decay, if the model scales up its logits instead of learning (grokking).
Avoid: parameters whose size must change: regression heads, gains.
Source: Prieto, Barsbey, Mediano & Birdal 2025, arXiv:2501.04697, section 5; ε = 10⁻³⁰ is from the authors' code.
Departs: p is 0 if only rounding errors remain (for a single number). The authors' code scales them up.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import Norm, ReductionGenerator, Sum

_EPS = 1e-30
_ROUNDING = 8  # largest rounding error of p, as a multiple of the machine epsilon


@dataclass(frozen=True, kw_only=True)
class Orthogonalized(Wrapper, scope="tensor"):
    """The part of the gradient orthogonal to the parameter, rescaled to the gradient's norm (OrthoGrad)."""

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        coefficient = (yield Sum(param * grad)) / ((yield Sum(param * param)) + _EPS)
        orthogonal = grad - coefficient * param
        norm, grad_norm = (yield Norm(orthogonal)), (yield Norm(grad))
        # If the gradient is parallel to the parameter (a single number), only rounding errors remain; they are no step.
        is_significant = norm > _ROUNDING * torch.finfo(grad.dtype).eps * grad_norm
        return orthogonal * torch.where(is_significant, grad_norm / (norm + _EPS), 0.0), state
