"""ClipAdaptive: the gradient of each unit scaled down to a share of the norm of the unit.

    W_t = max(‖θ_{t-1}‖, ε)          norms over each row or filter; over the whole of a bias or gain
    g_t ← g_t c W_t / ‖g_t‖ where ‖g_t‖ > c W_t        θ_t by the inner rule, with this g_t

Use: large batches and high learning rates without batch normalization.
Avoid: the last linear layer, which the source excludes: put it into a separate group.
Source: Brock, De, Smith & Simonyan 2021, arXiv:2102.06171, equation 3.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import ReductionGenerator
from thalweg.rules.math.units import unit_norm


@dataclass(frozen=True, kw_only=True)
class ClipAdaptive(Wrapper, scope="tensor", supports_complex=False):
    """The gradient of each unit scaled down to a share of the norm of the unit."""

    clipping: Scalar = hyper(1e-2, "> 0", symbol="c", unit="g/θ", doc="largest ratio of gradient to parameter")
    least_norm: Scalar = hyper(
        1e-3, "> 0", symbol="ε", unit="θ", doc="smallest norm of a unit; a smaller norm is replaced by it"
    )

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"clipping": self.clipping, "least_norm": self.least_norm}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        param_norm = yield from unit_norm(param)
        grad_norm = yield from unit_norm(grad)
        max_norm = c.clipping * torch.clamp(param_norm, min=c.least_norm)
        return torch.where(grad_norm > max_norm, grad * (max_norm / torch.clamp(grad_norm, min=1e-30)), grad), state
