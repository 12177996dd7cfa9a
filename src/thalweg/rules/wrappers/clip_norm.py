"""ClipNorm: each tensor's gradient scaled down to a norm that is at most a threshold.

    g_t ← g_t min(1, c / (‖g_t‖ + 10⁻⁶))        θ_t as the inner rule says, with this g_t

Use: where one layer explodes and the others should not pay for it.
Avoid: where the direction of the whole gradient matters: clipping by the global norm keeps it.
Source: Mikolov 2012, PhD thesis (Brno), section 3.3, for each tensor by itself.
Departs: from no formula in the source; 10⁻⁶ beside the norm as in torch.nn.utils.clip_grad_norm_, called on one tensor.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import ReductionGenerator, Sum
from thalweg.rules.math.roots import root

_BESIDE = 1e-6


@dataclass(frozen=True, kw_only=True)
class ClipNorm(Wrapper, scope="tensor"):
    """Each tensor's gradient scaled down to a norm that is at most a threshold."""

    max_tensor_norm: Scalar = hyper(1.0, "> 0", symbol="c", unit="g", doc="largest norm of a tensor's gradient")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"max_tensor_norm": self.max_tensor_norm}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        square = yield Sum(grad * grad)
        return grad * torch.clamp(c.max_tensor_norm * (root(square) + _BESIDE).reciprocal(), max=1.0), state
