"""LAMB: AdamW with the step of each tensor rescaled to the norm of the tensor.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    u_t = m̂_t / (√v̂_t + ε) + λ θ_{t-1}
    θ_t = θ_{t-1} - η ‖θ_{t-1}‖ / ‖u_t‖ u_t        the ratio is 1 where a norm is 0

Use: transformers with batches of thousands of examples.
Avoid: small batches. Parameters that start at 0 take steps of size η‖u‖ until they leave 0.
Source: You et al. 2020, arXiv:1904.00962 (version 5), Algorithm 2, with φ(z) = z.
Departs: nothing. Versions in other libraries differ by up to a fifth: NVIDIA's first divides all gradients by their
global norm, version 1 of the paper has no bias correction, and some limit the norm to 10.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments


@dataclass(frozen=True, kw_only=True)
class LAMB(Rule, scope="tensor", corrects_bias=True):
    """AdamW with the step of each tensor rescaled to the norm of the tensor."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-6)
    weight_decay: Scalar = decay.shrinkage(
        0.01, doc="λθ is added before the step is rescaled", place="in the step, inside the trust ratio"
    )

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        d, state = moments.direction(grad, state, c)
        u = d + c.weight_decay * param
        param_norm, update_norm = (yield Norm(param)), (yield Norm(u))
        ratio = torch.where((param_norm > 0) & (update_norm > 0), param_norm / update_norm, torch.ones_like(param_norm))
        return ratio * u, state
