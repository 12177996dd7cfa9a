"""AdamW: Adam with decoupled weight decay.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + ε)        amsgrad: the largest v so far in place of v_t

Use: transformers, and most networks where nothing else is known to be better.
Avoid: where 8 bytes of state a parameter are too many; a tuned SGD with momentum needs 4.
Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2.
Departs: η multiplies λ, as in torch.optim.AdamW; in the paper it does not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules import decay
from thalweg.rules.adam import AdamStep
from thalweg.rules.hyper import Range, Scalar, hyper
from thalweg.rules.rows import row


@dataclass(frozen=True, kw_only=True)
class AdamW(AdamStep, scope="elementwise"):
    """Adam with decoupled weight decay."""

    weight_decay: Scalar = hyper(
        1e-2,
        ">= 0",
        symbol="λ",
        unit="1/θ",
        search=Range(1e-4, 1.0, "log"),
        moves_optimum=True,
        doc="shrinks the parameter by ηλ a step",
    )

    def coefficients(self, step: int) -> Any:
        return row(**self.moment_coefficients(step), shrink=1 - self.lr * self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(grad, state, c)

    def apply(self, param: Tensor, direction: Tensor, c: Any) -> Any:
        return decay.decoupled(param, c) - c.lr * direction
