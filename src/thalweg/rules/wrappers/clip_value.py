"""ClipValue: each element of the gradient clipped to a threshold.

    g_t ← min(max(g_t, -c), c)        θ_t by the inner rule, with this g_t

Use: gradients in which single elements explode.
Avoid: all other cases: it changes the direction of the gradient.
Source: Mikolov 2012, PhD thesis (Brno), section 3.3; torch.nn.utils.clip_grad_value_.
Departs: nothing. `param.grad` is not changed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper


@dataclass(frozen=True, kw_only=True)
class ClipValue(Wrapper):
    """Each element of the gradient clipped to a threshold."""

    max_value: Scalar = hyper(1.0, "> 0", symbol="c", unit="g", doc="largest size of an element")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"max_value": self.max_value, "min_value": -self.max_value}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return torch.clamp(grad, min=c.min_value, max=c.max_value), state
