"""QHM: SGD whose step is a weighted sum of the gradient and its mean.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    b_t = β b_{t-1} + (1 - β) g_t
    θ_t = θ_{t-1} - η ((1 - ν) g_t + ν b_t)

Use: in place of SGD with momentum or with Nesterov's momentum, which are special cases. Choose β nearer to 1 than
usual.
Avoid: problems on which only one setting can be tuned: momentum is enough.
Source: Ma & Yarats 2019, arXiv:1810.06801, equations 3 and 4.
Departs: an L2 penalty.
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
class QHM(Rule, scope="elementwise"):
    """SGD whose step is a weighted sum of the gradient and its mean."""

    lr: Scalar = learning_rate(1.0, low=1e-3, high=100.0, unit="θ/g")
    momentum: Scalar = hyper(
        0.999, "[0, 1)", symbol="β", search=Range(0.9, 0.9999, "log-to-one"), order=2, doc="decay of the mean gradient"
    )
    nu: Scalar = hyper(0.7, "[0, 1]", symbol="ν", search=Range(0.3, 1.0), doc="share of the mean in the step")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        b = like_param(unit="g", key="momentum_buffer")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            momentum=self.momentum,
            fresh=1 - self.momentum,
            nu=self.nu,
            rest=1 - self.nu,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        b = c.momentum * state.b + c.fresh * g
        return c.rest * g + c.nu * b, state._replace(b=b)
