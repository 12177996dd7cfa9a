"""RAdam: Adam that steps by momentum alone until its mean square is a reliable estimate.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    ρ_∞ = 2 / (1 - β₂) - 1                    ρ_t = ρ_∞ - 2 t β₂ᵗ / (1 - β₂ᵗ)
    r_t = √((ρ_t - 4)(ρ_t - 2) ρ_∞ / ((ρ_∞ - 4)(ρ_∞ - 2) ρ_t))
    θ_t = θ_{t-1} - η r_t m̂_t / (√v̂_t + ε)  where ρ_t > 5,  else θ_{t-1} - η m̂_t

Use: in place of Adam with a warm-up, if nobody wants to tune the warm-up.
Avoid: a warm-up of the learning rate: with it, Adam gives the same result. Weight decay: use RAdamW.
Source: Liu et al. 2020, arXiv:1908.03265, Algorithm 2.
Departs: it follows torch.optim.RAdam: the threshold is 5 instead of 4, ε is added and divided by √(1 - β₂ᵗ), and there
is an L2 penalty.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt

_MIN_FREEDOM = 5  # degrees of freedom, as in torch.optim.RAdam


@dataclass(frozen=True, kw_only=True)
class RAdamStep(Rule, corrects_bias=True):
    """Base class of RAdam and RAdamW, which differ in weight decay. Abstract."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def moment_coefficients(self, step: int) -> dict[str, Scalar]:
        """Return the scalars of a step. While momentum alone steps, `unrectified` is 1 and `rectified` is 0."""
        max_freedom = 2 / (1 - self.beta2) - 1
        total_weight = 1 - self.beta2**step
        freedom = max_freedom - 2 * step * self.beta2**step / total_weight
        unrectified: Scalar = 1.0
        rectified: Scalar = 0.0
        if freedom > _MIN_FREEDOM:
            ratio = (freedom - 4) * (freedom - 2) * max_freedom / ((max_freedom - 4) * (max_freedom - 2) * freedom)
            unrectified, rectified = 0.0, sqrt(ratio * total_weight)
        return moments.coefficients(self, step) | {"unrectified": unrectified, "rectified": rectified}

    def moment_direction(self, g: Tensor, state: Any, c: Any) -> Any:
        """Return the direction, r m̂ / (√v̂ + ε) or at first m̂, and the new state."""
        m = c.beta1 * state.m + c.fresh1 * g
        v = c.beta2 * state.v + c.fresh2 * (g * g)
        mean = c.m_correct * m
        return c.unrectified * mean + c.rectified * mean / (root(v) + c.eps), state._replace(m=m, v=v)


@dataclass(frozen=True, kw_only=True)
class RAdam(RAdamStep, scope="elementwise"):
    """Adam that steps by momentum alone until its mean square is a reliable estimate."""

    def coefficients(self, step: int) -> Any:
        return record(**self.moment_coefficients(step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(decay.coupled(grad, param, c), state, c)
