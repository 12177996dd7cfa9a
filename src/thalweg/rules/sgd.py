"""SGD: gradient descent on a batch, with momentum.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    b_t = μ b_{t-1} + (1 - τ) g_t        b_1 = g_1
    d_t = b_t                            Nesterov: d_t = g_t + μ b_t
    θ_t = θ_{t-1} - η d_t

With μ = 0 this is plain SGD and has no state. On the full batch it is gradient descent. For a constant η and τ = 0 it
equals the heavy ball θ_{t+1} = θ_t - α ∇f(θ_t) + β (θ_t - θ_{t-1}) with α = η and β = μ. The two differ when η changes:
here the new η also rescales the earlier steps in the buffer, in the heavy ball it does not.

Use: the baseline. With tuned momentum it is hard to beat on convolutional networks, and it needs the least memory.
Avoid: gradients whose scale differs much between layers or parameters (attention, embeddings, sparse features).
Source: Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013 (proceedings.mlr.press/v28/sutskever13.html).
Departs: η multiplies the buffer and does not enter it, and dampening skips the first step, as in torch.optim.SGD.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.core.hyper import Range, Scalar, hyper, learning_rate, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.core.traits import Traits
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class SGD(Rule, scope="elementwise", supports_sparse=True):
    """Gradient descent on a batch, with momentum."""

    lr: Scalar = learning_rate(1e-3, low=1e-4, high=10.0, unit="θ/g")
    momentum: Scalar = hyper(
        0.0, ">= 0", symbol="μ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="weight of the last buffer"
    )
    dampening: Scalar = hyper(0.0, "[0, 1]", symbol="τ", doc="share of the gradient left out of the buffer")
    weight_decay: Scalar = decay.l2_penalty()
    nesterov: bool = switch(False, doc="use Nesterov's momentum")

    class State:
        b = like_param(unit="g", key="momentum_buffer", when=lambda rule, shape: rule.momentum != 0)

    @cached_property
    def traits(self) -> Traits:
        return super().traits.with_(noop_on_zero_grad=bool(self.momentum == 0 and self.weight_decay == 0))

    def check_consistency(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise SettingError(
                "SGD: nesterov needs momentum > 0 and dampening = 0, "
                f"got momentum = {self.momentum} and dampening = {self.dampening}."
            )

    def coefficients(self, step: int) -> Any:
        fresh = 1.0 if step == 1 else 1.0 - self.dampening
        return record(lr=self.lr, momentum=self.momentum, fresh=fresh, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        if self.momentum == 0:
            return g, state
        b = c.momentum * state.b + c.fresh * g
        return (g + c.momentum * b if self.nesterov else b), state._replace(b=b)
