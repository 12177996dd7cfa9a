"""RMSprop: gradient descent with each gradient divided by its running root mean square.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    s_t = α s_{t-1} + (1 - α) g_t²
    a_t = α a_{t-1} + (1 - α) g_t                 centered only
    d_t = g_t / (√s_t + ε)                        centered: g_t / (√(s_t - a_t²) + ε)
    b_t = μ b_{t-1} + d_t                         with momentum, in place of d_t
    θ_t = θ_{t-1} - η d_t

Use: recurrent networks and reinforcement learning, where gradients are far from stationary.
Avoid: problems on which Adam works: Adam adds momentum and corrects the size of the first steps.
Source: Tieleman & Hinton 2012, lecture 6e of Neural Networks for Machine Learning; centered: Graves 2013,
arXiv:1308.0850.
Departs: ε outside the root, as in torch.optim.RMSprop (TensorFlow: inside). Unlike in torch, s_t - a_t² is never below
0. For a constant gradient, rounding makes it negative in torch, and the root is NaN.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class RMSprop(Rule, scope="elementwise"):
    """Gradient descent with each gradient divided by its running root mean square."""

    lr: Scalar = learning_rate(1e-2)
    alpha: Scalar = hyper(
        0.99, "[0, 1)", symbol="α", search=Range(0.9, 0.999, "log-to-one"), doc="decay of the mean square"
    )
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.l2_penalty()
    momentum: Scalar = hyper(
        0.0, ">= 0", symbol="μ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="weight of the last buffer"
    )
    centered: bool = switch(False, doc="divide by the standard deviation instead of the root mean square")

    class State:
        s = like_param(unit="g²", key="square_avg")
        a = like_param(unit="g", key="grad_avg", when=lambda rule, shape: rule.centered)
        b = like_param(unit="1", key="momentum_buffer", when=lambda rule, shape: rule.momentum != 0)

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            alpha=self.alpha,
            fresh=1 - self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        square = s = c.alpha * state.s + c.fresh * (g * g)
        state = state._replace(s=s)
        if self.centered:
            a = c.alpha * state.a + c.fresh * g
            square = torch.clamp(s - a * a, min=0)
            state = state._replace(a=a)
        d = g / (root(square) + c.eps)
        if self.momentum == 0:
            return d, state
        b = c.momentum * state.b + d
        return b, state._replace(b=b)
