"""NAdam: Adam with Nesterov's momentum, and with a warm-up of the momentum's decay.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    μ_t = β₁ (1 - 0.96^(tψ) / 2)              P_t = P_{t-1} μ_t,  P_0 = 1
    m_t = β₁ m_{t-1} + (1 - β₁) g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    m̂_t = μ_{t+1} m_t / (1 - P_t μ_{t+1}) + (1 - μ_t) g_t / (1 - P_t)
    θ_t = θ_{t-1} - η m̂_t / (√v̂_t + ε)

Use: in place of Adam, with the same settings, if the gradients are not too noisy.
Avoid: weight decay: use NAdamW.
Source: Dozat 2016 (openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), Algorithm 2.
Departs: an L2 penalty, and the product of all μ stored with the state, as in torch.optim.NAdam.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root

_WARMUP_BASE = 0.96  # of the paper


@dataclass(frozen=True, kw_only=True)
class NAdamStep(Rule, corrects_bias=True, recurrent_scalars={"mu_product": 1.0}):
    """Base class of NAdam and NAdamW, which differ in weight decay. Abstract."""

    lr: Scalar = learning_rate(2e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.l2_penalty()
    momentum_decay: Scalar = hyper(4e-3, ">= 0", symbol="ψ", doc="speed of the warm-up of the momentum")

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        mu, next_mu = (
            self.beta1 * (1 - 0.5 * _WARMUP_BASE ** (count * self.momentum_decay)) for count in (step, step + 1)
        )
        product = previous.mu_product * mu
        return {
            "mu_product": product,
            "of_grad": (1 - mu) / (1 - product),
            "of_mean": next_mu / (1 - product * next_mu),
        }

    def moment_direction(self, g: Tensor, state: Any, c: Any) -> Any:
        """Return m̂ / (√v̂ + ε) and the new state."""
        m = c.beta1 * state.m + c.fresh1 * g
        v = c.beta2 * state.v + c.fresh2 * (g * g)
        return (c.of_mean * m + c.of_grad * g) / (c.root_v_correct * root(v) + c.eps), state._replace(m=m, v=v)


@dataclass(frozen=True, kw_only=True)
class NAdam(NAdamStep, scope="elementwise"):
    """Adam with Nesterov's momentum, and with a warm-up of the momentum's decay."""

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(decay.coupled(grad, param, c), state, c)
