"""Adadelta: steps in the parameter's own unit, from running means of squared gradients and of squared steps.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    s_t = ρ s_{t-1} + (1 - ρ) g_t²
    d_t = √(a_{t-1} + ε) / √(s_t + ε) g_t
    a_t = ρ a_{t-1} + (1 - ρ) d_t²
    θ_t = θ_{t-1} - η d_t

Use: problems on which no learning rate can be tuned: η = 1 is often good enough.
Avoid: problems on which a learning rate can be tuned: Adam with a tuned η is nearly always better. The first steps are
tiny (√ε).
Source: Zeiler 2012, arXiv:1212.5701, Algorithm 1.
Departs: a learning rate (1 in the paper) and an L2 penalty, as in torch.optim.Adadelta.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class Adadelta(Rule, scope="elementwise"):
    """Steps in the parameter's own unit, from running means of squared gradients and of squared steps."""

    lr: Scalar = learning_rate(1.0, low=1e-2, high=100.0, unit="1")
    rho: Scalar = hyper(
        0.9, "[0, 1]", symbol="ρ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="decay of both mean squares"
    )
    eps: Scalar = epsilon(1e-6, place="inside the root", unit="g²")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        s = like_param(unit="g²", key="square_avg")
        a = like_param(unit="θ²", key="acc_delta")

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, rho=self.rho, fresh=1 - self.rho, eps=self.eps, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        s = c.rho * state.s + c.fresh * (g * g)
        d = root(state.a + c.eps) / root(s + c.eps) * g
        return d, state._replace(s=s, a=c.rho * state.a + c.fresh * (d * d))
