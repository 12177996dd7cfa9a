"""HeavyBall: gradient descent that repeats a share of the last displacement in each step.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    s_t = β s_{t-1} - η g_t        s_0 = 0
    θ_t = θ_{t-1} + s_t            so s_t = θ_t - θ_{t-1}

Use: full batches and quadratic functions, for which its theory holds. With a constant η it equals SGD with momentum.
Avoid: a learning rate schedule: a change of η does not rescale the displacement, as it does in SGD with momentum.
Source: Polyak 1964 (USSR Comput. Math. Math. Phys. 4(5), 1-17), equation 9.
Departs: an L2 penalty. The state holds s instead of θ_{t-2}, so s does not include changes of θ between steps (by
Lookahead, by a decay).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class HeavyBall(Rule, scope="elementwise", lr_in_state=True):
    """Gradient descent that repeats a share of the last displacement in each step."""

    lr: Scalar = learning_rate(1e-3, low=1e-4, high=10.0, unit="θ/g")
    momentum: Scalar = hyper(
        0.9, "[0, 1)", symbol="β", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="share of the last displacement"
    )
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        s = like_param(unit="θ", key="displacement")

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        s = c.momentum * state.s - c.lr * decay.coupled(grad, param, c)
        return -s, state._replace(s=s)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param - direction, state
