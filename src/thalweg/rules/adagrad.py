"""AdaGrad: gradient descent with each gradient divided by the root of the sum of its squares so far.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    s_t = s_{t-1} + g_t²                 s_0 = the initial accumulator
    η_t = η / (1 + (t - 1) κ)
    θ_t = θ_{t-1} - η_t g_t / (√s_t + ε)

Use: sparse features and convex problems: a rare feature keeps a large step.
Avoid: long training of deep networks: the sum only grows, so the steps only shrink.
Source: Duchi, Hazan & Singer 2011, jmlr.org/papers/v12/duchi11a.html, Figure 1 (diagonal).
Departs: ε outside the root, a decay κ of the learning rate, and an L2 penalty, as in torch.optim.Adagrad.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.core.traits import Traits
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root


@dataclass(frozen=True, kw_only=True)
class AdaGrad(Rule, scope="elementwise", supports_sparse=True):
    """Gradient descent with each gradient divided by the root of the sum of its squares so far."""

    lr: Scalar = learning_rate(1e-2, low=1e-4, high=10.0)
    lr_decay: Scalar = hyper(0.0, ">= 0", symbol="κ", doc="decay of the learning rate per step")
    weight_decay: Scalar = decay.l2_penalty()
    initial_accumulator_value: Scalar = hyper(0.0, ">= 0", symbol="s_0", unit="g²", doc="first value of the sum")
    eps: Scalar = epsilon(1e-10)

    class State:
        s = like_param(unit="g²", key="sum", fill=lambda rule: rule.initial_accumulator_value)

    @cached_property
    def traits(self) -> Traits:
        return super().traits.with_(noop_on_zero_grad=bool(self.weight_decay == 0))

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr / (1 + (step - 1) * self.lr_decay), eps=self.eps, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        s = state.s + g * g
        return g / (root(s) + c.eps), state._replace(s=s)
