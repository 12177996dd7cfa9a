"""NAdamW: NAdam with decoupled weight decay.

    μ_t = β₁ (1 - 0.96^(tψ) / 2)              P_t = P_{t-1} μ_t,  P_0 = 1
    m_t = β₁ m_{t-1} + (1 - β₁) g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    m̂_t = μ_{t+1} m_t / (1 - P_t μ_{t+1}) + (1 - μ_t) g_t / (1 - P_t)
    θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + ε)

Use: in place of AdamW, with the same settings.
Avoid: models for which AdamW's memory is too large: NAdamW needs the same.
Source: Dozat 2016 (openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), Algorithm 2; the decay of Loshchilov & Hutter 2019,
arXiv:1711.05101.
Departs: it follows torch.optim.NAdam with decoupled_weight_decay=True. AlgoPerf (arXiv:2306.07179) calls another rule
NAdamW: it has μ = β₁ and no warm-up.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar
from thalweg.rules.core.records import record
from thalweg.rules.math import decay, moments
from thalweg.rules.nadam import NAdamStep


@dataclass(frozen=True, kw_only=True)
class NAdamW(decay.Decoupled, NAdamStep, scope="elementwise"):
    """NAdam with decoupled weight decay."""

    weight_decay: Scalar = decay.shrinkage(1e-2)

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), shrink=decay.shrink(self))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(grad, state, c)
