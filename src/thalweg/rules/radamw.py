"""RAdamW: RAdam with decoupled weight decay.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    ρ_∞ = 2 / (1 - β₂) - 1                    ρ_t = ρ_∞ - 2 t β₂ᵗ / (1 - β₂ᵗ)
    r_t = √((ρ_t - 4)(ρ_t - 2) ρ_∞ / ((ρ_∞ - 4)(ρ_∞ - 2) ρ_t))
    θ_t = (1 - ηλ) θ_{t-1} - η r_t m̂_t / (√v̂_t + ε)  where ρ_t > 5,  else (1 - ηλ) θ_{t-1} - η m̂_t

Use: in place of AdamW with a warm-up, if nobody wants to tune the warm-up.
Avoid: a warm-up of the learning rate: with it, AdamW gives the same result.
Source: Liu et al. 2020, arXiv:1908.03265, Algorithm 2; the decay of Loshchilov & Hutter 2019, arXiv:1711.05101.
Departs: it follows torch.optim.RAdam with decoupled_weight_decay=True: the threshold is 5 instead of 4, and ε is added.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar
from thalweg.rules.core.records import record
from thalweg.rules.math import decay
from thalweg.rules.radam import RAdamStep


@dataclass(frozen=True, kw_only=True)
class RAdamW(decay.Decoupled, RAdamStep, scope="elementwise"):
    """RAdam with decoupled weight decay."""

    weight_decay: Scalar = decay.shrinkage(1e-2)

    def coefficients(self, step: int) -> Any:
        return record(**self.moment_coefficients(step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(grad, state, c)
