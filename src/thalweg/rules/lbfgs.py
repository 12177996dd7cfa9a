"""L-BFGS: Newton's method with the Hessian approximated from the last steps and changes of the gradient.

    s = θ_{t-1} - θ_{t-2},  y = g_t - g_{t-1}        the newest pair, kept if sᵀy > 10⁻¹⁰; the last m are kept
    q = g_t;  from the newest pair to the oldest:    α_i = s_iᵀq / s_iᵀy_i,  q ← q - α_i y_i
    d = q sᵀy / yᵀy, of the newest pair; from the oldest to the newest:  d ← d + (α_i - y_iᵀd / s_iᵀy_i) s_i
    θ_t = θ_{t-1} - η τ_t d        d_1 = g_1 / max(1, ‖g_1‖₁); inner products over the whole model

τ_t is 1 by default. With strong_wolfe, a line search finds a τ_t with two properties: the loss f(θ_{t-1} - η τ d) falls
by at least 10⁻⁴ of the fall that its slope at τ = 0 predicts, and the slope shrinks to at most 0.9 of its size at τ =
0. One call of `step` runs up to max_iter iterations. It needs a closure and calls it at each new point.

Use: full batches and smooth losses, with strong_wolfe: small networks, physics-informed networks, least-squares fits.
Avoid: mini-batches: the method takes their noise for curvature. Models for which 2m copies of the parameters do not fit
into memory.
Source: Nocedal & Wright 2006, Numerical Optimization, Algorithms 7.4 and 7.5; 3.5 and 3.6 for the line search.
Departs: s is the actual change of the parameters, after rounding; in torch.optim.LBFGS it is the intended change. A
parameter without a gradient does not move. Several groups with the same settings act as one group. No step ends at a
point where the loss is known to be infinite or NaN, and none starts there. Memory for m pairs is allocated at the
start. Each iteration computes the inner products again. Gradients must be dense. Checkpoints are not compatible with
torch's.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, choice, count, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm, Sum
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param, of_shape

_MIN_CURVATURE = 1e-10  # as in torch: pairs with less curvature would make steps too long


def _history(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([rule.history_size, *shape])


@dataclass(frozen=True, kw_only=True)
class LBFGS(Rule, scope="model", needs="closure", supports_vmap=False, supports_shards=False):
    """Newton's method with the Hessian approximated from the last steps and changes of the gradient."""

    lr: Scalar = learning_rate(1.0, low=0.01, high=1.0, unit="1", doc="learning rate: first step length to try")
    max_iter: int = count(20, ">= 1", symbol="", doc="largest number of iterations per step")
    max_eval: int = count(0, ">= 0", symbol="", doc="approximate limit of closure calls per step; 0: 5/4 of max_iter")
    tolerance_grad: Scalar = hyper(
        1e-7, ">= 0", symbol="", unit="g", doc="a step ends if no element of the gradient is larger"
    )
    tolerance_change: Scalar = hyper(
        1e-9, ">= 0", symbol="", unit="1", doc="a step ends if the parameters, the loss or its slope change by less"
    )
    history_size: int = count(100, "[1, 10000]", symbol="m", doc="number of stored pairs")
    line_search_fn: str = choice("fixed", "strong_wolfe", doc="step length of an iteration; None means fixed")

    class State:
        last = like_param(unit="θ", key="prev_param")
        last_grad = like_param(unit="g", key="prev_grad")
        s = of_shape(_history, unit="θ", key="param_changes")
        y = of_shape(_history, unit="g", key="grad_changes")

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, first=float(step == 1), pairs=min(step - 1, self.history_size))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        s = torch.zeros_like(param) if c.first else param - state.last
        y = torch.zeros_like(grad) if c.first else grad - state.last_grad
        curved = (yield Sum(s * y, over="model")) > _MIN_CURVATURE
        state = state._replace(
            last=param,
            last_grad=grad,
            s=torch.where(curved, torch.cat([state.s[1:], s[None]]), state.s),  # the newest is the last
            y=torch.where(curved, torch.cat([state.y[1:], y[None]]), state.y),
        )
        # All parameters must yield the same reductions. A parameter that joined late has zeros as its first pairs.
        oldest = self.history_size - c.pairs
        pairs = list(zip(state.s[oldest:], state.y[oldest:], strict=True))
        q, weighted_pairs, scale = grad, [], torch.ones((), dtype=grad.dtype, device=grad.device)
        for index, (s, y) in enumerate(reversed(pairs)):
            # Computed again in each iteration: parameters may have joined or left, and the pairs of the remaining ones
            # may have too little curvature. Such pairs, and those that are still zero, have no weight.
            product = yield Sum(s * y, over="model")
            inverse = torch.where(product > _MIN_CURVATURE, product, torch.inf).reciprocal()
            alpha = inverse * (yield Sum(s * q, over="model"))
            q = q - alpha * y
            weighted_pairs.append((inverse, alpha, s, y))
            if index == 0:
                y_norm = yield Norm(y, over="model")
                scale = torch.where(product > _MIN_CURVATURE, product / y_norm / y_norm, scale)
        d = scale * q
        for inverse, alpha, s, y in reversed(weighted_pairs):
            d = d + (alpha - inverse * (yield Sum(y * d, over="model"))) * s
        norm = yield Sum(grad.abs(), over="model")
        # No pairs: the first iteration of the model. `c.first` is that of the parameter, which may have joined late.
        return (d if c.pairs else norm.clamp(min=1).reciprocal() * d), state
