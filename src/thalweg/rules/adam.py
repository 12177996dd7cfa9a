"""Adam: momentum divided by a running root mean square of each parameter's gradients.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = θ_{t-1} - η m̂_t / (√v̂_t + ε)        amsgrad: the largest v so far in place of v_t

Use: a first attempt without weight decay: it works over a wide range of learning rates.
Avoid: weight decay: Adam divides the penalty by the root mean square, so the penalty has almost no effect. Use AdamW.
Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1; amsgrad: Reddi, Kale & Kumar 2018, arXiv:1904.09237.
Departs: an L2 penalty, and for amsgrad the largest v_t before its bias correction, as in torch.optim.Adam.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments


@dataclass(frozen=True, kw_only=True)
class AdamStep(Rule, corrects_bias=True):
    """Base class of Adam and AdamW, which differ in weight decay. Abstract."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.l2_penalty()
    amsgrad: bool = switch(False, doc="divide by the largest mean square so far")

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")
        vmax = like_param(unit="g²", key="max_exp_avg_sq", when=lambda rule, shape: rule.amsgrad)


@dataclass(frozen=True, kw_only=True)
class Adam(AdamStep, scope="elementwise"):
    """Momentum divided by a running root mean square of each parameter's gradients."""

    def coefficients(self, step: int) -> Any:
        return record(**moments.coefficients(self, step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return moments.direction(decay.coupled(grad, param, c), state, c)
