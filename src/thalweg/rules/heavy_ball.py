"""HeavyBall: gradient descent with the last displacement kept going.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    θ_t = θ_{t-1} - η g_t + β (θ_{t-1} - θ_{t-2})        θ_{-1} = θ_0

Use: full batches and quadratics, whose theory it has; with a constant η it is SGD with momentum.
Avoid: with a schedule: a change of η leaves the displacement as it was, where SGD with momentum rescales it.
Source: Polyak 1964 (USSR Comput. Math. Math. Phys. 4(5), 1-17), equation 9.
Departs: an L2 penalty.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.base import decay
from thalweg.rules.base.hyper import Range, Scalar, hyper, learning_rate
from thalweg.rules.base.rows import row
from thalweg.rules.base.rule import Rule, copy_of_param


@dataclass(frozen=True, kw_only=True)
class HeavyBall(Rule, scope="elementwise"):
    """Gradient descent with the last displacement kept going."""

    lr: Scalar = learning_rate(1e-3, low=1e-4, high=10.0, unit="θ/g")
    momentum: Scalar = hyper(
        0.9, "[0, 1)", symbol="β", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="share of the displacement kept"
    )
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        last = copy_of_param(key="last_param")

    def coefficients(self, step: int) -> Any:
        return row(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return decay.coupled(grad, param, c), state

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param - c.lr * direction + c.momentum * (param - state.last), state._replace(last=param)
