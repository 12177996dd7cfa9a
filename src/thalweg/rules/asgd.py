"""ASGD: gradient descent with a falling learning rate, and an average of the parameters.

    g_t = ∇f(θ_{t-1}) + λ_g θ_{t-1}
    η_t = η / (1 + λ η (t - 1))^α
    θ_t = (1 - λ η_t) θ_{t-1} - η_t g_t
    a_t = a_{t-1} + μ_t (θ_t - a_{t-1})        μ_t = 1 / max(1, t - 1 - t₀)

Evaluate the model at a.

Use: convex problems, and language models with recurrent networks. Start the average (t₀) when the loss no longer falls.
Avoid: a learning rate schedule that ends near zero: the average then only lags behind the parameters.
Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30, 838-855); Bottou 2012, Stochastic gradient descent tricks.
Departs: a schedule acts one step late, and λ_g is `weight_decay`, as in torch.optim.ASGD. torch leaves the model at θ;
here `eval()` moves it to a.
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
class ASGD(Rule, scope="elementwise", recurrent_scalars={"eta": 0.0, "mu": 1.0}, has_eval_params=True):
    """Gradient descent with a falling learning rate, and an average of the parameters."""

    lr: Scalar = learning_rate(1e-2, low=1e-4, high=10.0, unit="θ/g")
    lambd: Scalar = hyper(1e-4, ">= 0", symbol="λ", doc="speed of the fall of the learning rate, and weight decay")
    alpha: Scalar = hyper(0.75, ">= 0", symbol="α", doc="exponent of the fall of the learning rate")
    t0: Scalar = hyper(1e6, ">= 0", symbol="t₀", unit="steps", doc="start of the average")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        a = like_param(unit="θ", key="ax")

    def coefficients(self, step: int) -> Any:
        return record(weight_decay=self.weight_decay)

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        # `eta` and `mu` are those of the next step, as in torch, so a schedule acts one step late.
        lr = previous.eta if step > 1 else self.lr
        return {
            "lr": lr,
            "shrink": 1 - self.lambd * lr,
            "fresh": previous.mu,
            "eta": self.lr / (1 + self.lambd * self.lr * step) ** self.alpha,
            "mu": 1 / max(1, step - self.t0),
        }

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return decay.coupled(grad, param, c), state

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        param = decay.decoupled(param, c) - c.lr * direction
        return param, state._replace(a=state.a + c.fresh * (param - state.a))

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return state.a
