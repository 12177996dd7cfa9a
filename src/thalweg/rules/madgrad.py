"""MADGRAD: dual averaging with a cube root, and with momentum as an average of the parameters.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}        η_t = η √t
    s_t = s_{t-1} + η_t g_t
    v_t = v_{t-1} + η_t g_t²
    z_t = θ_0 - s_t / (∛v_t + ε)
    θ_t = θ_{t-1} + (1 - μ) (z_t - θ_{t-1})

Use: sparse problems, and problems on which SGD generalizes well but is hard to tune.
Avoid: fine-tuning, and long training with strong weight decay: the method never forgets θ_0.
Source: Defazio & Jelassi 2021, arXiv:2101.11075, Algorithm 1.
Departs: an L2 penalty. The authors' code adds 10⁻⁶ to η; this rule does not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, like_param
from thalweg.rules.math import decay
from thalweg.rules.math.roots import cube_root
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class MADGRAD(Rule, scope="elementwise", lr_in_state=True, owns_parameters=True):
    """Dual averaging with a cube root, and with momentum as an average of the parameters."""

    lr: Scalar = learning_rate(1e-2)
    momentum: Scalar = mean_decay(0.9, symbol="μ", keyword=None)
    eps: Scalar = epsilon(1e-6)
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        s = like_param(unit="g", key="grad_sum")
        v = like_param(unit="g²", key="grad_sum_sq")
        start = copy_of_param(key="x0")

    def coefficients(self, step: int) -> Any:
        return record(
            weight=self.lr * sqrt(step),
            fresh=1 - self.momentum,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        s = state.s + c.weight * g
        v = state.v + c.weight * (g * g)
        return s / (cube_root(v) + c.eps), state._replace(s=s, v=v)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param + c.fresh * (state.start - direction - param), state
