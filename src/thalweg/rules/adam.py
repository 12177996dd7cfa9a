"""Adam: momentum, with each parameter's step divided by a running root mean square of its gradients.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m̂_t = m_t / (1 - β₁ᵗ)
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²          v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = θ_{t-1} - η m̂_t / (√v̂_t + ε)        amsgrad: the largest v so far in place of v_t

Use: the first thing to try without weight decay: it works over a wide range of learning rates.
Avoid: with weight decay: the penalty passes through the scaling and hardly acts; use AdamW.
Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1; amsgrad: Reddi, Kale & Kumar 2018, arXiv:1904.09237.
Departs: as torch.optim.Adam: an L2 penalty; amsgrad takes the largest v_t before its bias is corrected.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules import decay
from thalweg.rules.hyper import Range, Scalar, hyper, switch
from thalweg.rules.roots import root
from thalweg.rules.rows import row
from thalweg.rules.rule import Rule, like_param


@dataclass(frozen=True, kw_only=True)
class AdamStep(Rule):
    """What Adam and AdamW share: everything but where weight decay enters. Abstract."""

    lr: Scalar = hyper(1e-3, ">= 0", symbol="η", unit="θ", search=Range(1e-5, 1.0, "log"), order=1, doc="learning rate")
    beta1: Scalar = hyper(
        0.9,
        "[0, 1)",
        symbol="β₁",
        search=Range(0.5, 0.99, "log-to-one"),
        order=2,
        doc="decay of the mean gradient",
        keyword="betas",
    )
    beta2: Scalar = hyper(
        0.999,
        "[0, 1)",
        symbol="β₂",
        search=Range(0.9, 0.9999, "log-to-one"),
        doc="decay of the mean square",
        keyword="betas",
    )
    eps: Scalar = hyper(
        1e-8, ">= 0", symbol="ε", unit="g", search=Range(1e-10, 1e-3, "log"), doc="keeps the division finite"
    )
    weight_decay: Scalar = decay.l2_penalty()
    amsgrad: bool = switch(False, doc="divide by the largest mean square so far")

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")
        vmax = like_param(unit="g²", key="max_exp_avg_sq", when=lambda rule, shape: rule.amsgrad)

    def moment_coefficients(self, step: int) -> dict[str, Scalar]:
        """The scalars of m̂ and v̂; `m_correct` is 1 / (1 - β₁ᵗ), `root_v_correct` is 1 / √(1 - β₂ᵗ)."""
        return {
            "lr": self.lr,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "fresh1": 1 - self.beta1,
            "fresh2": 1 - self.beta2,
            "m_correct": 1 / (1 - self.beta1**step),
            "root_v_correct": 1 / (1 - self.beta2**step) ** 0.5,
            "eps": self.eps,
        }

    def moment_direction(self, g: Tensor, state: Any, c: Any) -> Any:
        """m̂ / (√v̂ + ε), and the new state."""
        m = c.beta1 * state.m + c.fresh1 * g
        v = c.beta2 * state.v + c.fresh2 * (g * g)
        state = state._replace(m=m, v=v)
        if self.amsgrad:
            v = torch.maximum(state.vmax, v)
            state = state._replace(vmax=v)
        return (c.m_correct * m) / (c.root_v_correct * root(v) + c.eps), state


@dataclass(frozen=True, kw_only=True)
class Adam(AdamStep, scope="elementwise"):
    """Momentum, with each parameter's step divided by a running root mean square of its gradients."""

    def coefficients(self, step: int) -> Any:
        return row(**self.moment_coefficients(step), weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return self.moment_direction(decay.coupled(grad, param, c), state, c)
