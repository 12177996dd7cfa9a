"""AggMo: SGD with the mean of three momentum buffers; the fast ones damp the oscillations of the slow ones.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    b_t = β b_{t-1} + g_t        for each of β = μ₁, μ₂, μ₃
    θ_t = θ_{t-1} - η (b_t of μ₁ + b_t of μ₂ + b_t of μ₃) / 3

Use: problems on which a momentum of 0.99 is fast but oscillates.
Avoid: models that leave little memory: it stores three numbers for each parameter.
Source: Lucas, Sun, Zemel & Grosse 2019, arXiv:1804.00325, equations 4 and 5.
Departs: three momentum buffers. The paper allows any number and recommends three. An L2 penalty.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class AggMo(Rule, scope="elementwise"):
    """SGD with the mean of three momentum buffers; the fast ones damp the oscillations of the slow ones."""

    lr: Scalar = learning_rate(0.1, low=1e-4, high=10.0, unit="θ/g")
    mu1: Scalar = hyper(0.0, "[0, 1)", symbol="μ₁", doc="momentum factor of the first buffer", keyword="momenta")
    mu2: Scalar = hyper(0.9, "[0, 1)", symbol="μ₂", doc="momentum factor of the second buffer", keyword="momenta")
    mu3: Scalar = hyper(0.99, "[0, 1)", symbol="μ₃", doc="momentum factor of the third buffer", keyword="momenta")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        b1 = like_param(unit="g", key="momentum_buffer_1")
        b2 = like_param(unit="g", key="momentum_buffer_2")
        b3 = like_param(unit="g", key="momentum_buffer_3")

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, mu1=self.mu1, mu2=self.mu2, mu3=self.mu3, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        b1, b2, b3 = c.mu1 * state.b1 + g, c.mu2 * state.b2 + g, c.mu3 * state.b3 + g
        return (b1 + b2 + b3) / 3, state._replace(b1=b1, b2=b2, b3=b3)
