"""ClipNorm: the gradient of each tensor scaled down, so that its norm is at most a threshold.

    g_t ← g_t min(1, c / (‖g_t‖ + 10⁻⁶))        θ_t by the inner rule, with this g_t

Use: models in which one layer explodes and the other layers must not be affected.
Avoid: problems on which the direction of the whole gradient matters: Clip preserves it.
Source: Mikolov 2012, PhD thesis (Brno), section 3.3, for each tensor separately.
Departs: the source has no formula. 10⁻⁶ is added to the norm, as in torch.nn.utils.clip_grad_norm_ for one tensor.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator

_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ClipNorm(Wrapper, scope="tensor"):
    """The gradient of each tensor scaled down, so that its norm is at most a threshold."""

    max_tensor_norm: Scalar = hyper(1.0, "> 0", symbol="c", unit="g", doc="largest norm of a tensor's gradient")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"max_tensor_norm": self.max_tensor_norm}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        norm = yield Norm(grad)
        return grad * torch.clamp(c.max_tensor_norm * (norm + _NORM_EPS).reciprocal(), max=1.0), state
