"""AdamW: Adam with decoupled weight decay.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + ε)        amsgrad: the largest v so far in place of v_t

Use: transformers, and most networks for which no better optimizer is known.
Avoid: models for which 8 bytes of state per parameter are too many: a tuned SGD with momentum needs 4.
Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2.
Departs: η multiplies λ, as in torch.optim.AdamW. In the paper it does not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.adam import AdamStep
from thalweg.rules.core.hyper import Scalar
from thalweg.rules.core.records import record
from thalweg.rules.math import decay, moments


@dataclass(frozen=True, kw_only=True)
class AdamW(decay.Decoupled, AdamStep, scope="elementwise"):
    """Adam with decoupled weight decay."""

    weight_decay: Scalar = decay.shrinkage(1e-2)

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return moments.direction(grad, state, c)
