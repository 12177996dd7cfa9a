"""L-BFGS: Newton's method with the Hessian approximated from the last steps and changes of the gradient.

    s = θ_{t-1} - θ_{t-2},  y = g_t - g_{t-1}        the newest pair, kept if sᵀy > 10⁻¹⁰; the last m are kept
    S = (s_1 ... s_m),  Y = (y_1 ... y_m)            the oldest first;  R = triu(SᵀY),  D = diag(SᵀY)
    α = R⁻¹ Sᵀg_t,  q = g_t - Y α                    the first loop of the two-loop recursion, as a product
    d = γ q + S R⁻ᵀ (D α - γ Yᵀq)                    the second;  γ = s_mᵀy_m / y_mᵀy_m
    θ_t = θ_{t-1} - η τ_t d        d_1 = g_1 / max(1, ‖g_1‖₁); inner products over the whole model

τ_t is 1 by default. With strong_wolfe, a line search finds a τ_t with two properties: the loss f(θ_{t-1} - η τ d) falls
by at least 10⁻⁴ of the fall that its slope at τ = 0 predicts, and the slope shrinks to at most 0.9 of its size at τ =
0. One call of `step` runs up to max_iter iterations. It needs a closure and calls it at each new point.

Use: full batches and smooth losses, with strong_wolfe: small networks, physics-informed networks, least-squares fits.
Avoid: mini-batches: the method takes their noise for curvature. Models for which 2m copies of the parameters do not fit
into memory.
Source: Nocedal & Wright 2006, Numerical Optimization, Algorithms 7.4 and 7.5; 3.5 and 3.6 for the line search. The
products are those of the compact form of Byrd, Nocedal & Schnabel 1994, doi:10.1007/BF01582063.
Departs: the two loops are products of matrices, equal up to rounding. s is the actual change of the parameters, after
rounding; in torch.optim.LBFGS it is the intended change. A parameter without a gradient does not move. Several groups
with the same settings act as one group. No step ends at a point where the loss is known to be infinite or NaN, and none
starts there. Memory for m pairs is allocated at the start. Gradients must be dense. Checkpoints are not compatible with
torch's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, choice, count, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Products, Replace, RequestGenerator, Sum
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param, of_shape

_MIN_CURVATURE = 1e-10  # as in torch: pairs with less curvature would make steps too long


def _all_pairs(rule: Any) -> float:
    return float(rule.history_size)


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
        # Pair number n is at index n mod m. Older checkpoints have the newest pair at the end.
        s = of_shape(_history, unit="θ", key="param_changes")
        y = of_shape(_history, unit="g", key="grad_changes")
        num_pairs = of_shape(unit="1", key="num_pairs", missing=_all_pairs)

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, first=float(step == 1), pairs=min(step - 1, self.history_size))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        # All parameters must yield the same requests. A parameter that joined late has zeros as its first pairs.
        s = torch.zeros_like(param) if c.first else param - state.last
        y = torch.zeros_like(grad) if c.first else grad - state.last_grad
        state = state._replace(last=param, last_grad=grad)
        if not c.pairs:  # the first iteration of the model; `c.first` is that of the parameter, which may join late
            norm = yield Sum(grad.abs(), over="model")
            return norm.clamp(min=1).reciprocal() * grad, state
        num_pairs = int(state.num_pairs)
        if (yield Products(s.unsqueeze(0), y)) > _MIN_CURVATURE:
            newest = num_pairs % self.history_size
            new_s, new_y = (yield Replace(state.s, newest, s)), (yield Replace(state.y, newest, y))
            state = state._replace(s=new_s, y=new_y, num_pairs=state.num_pairs + 1)
            num_pairs += 1
        if not num_pairs:
            return grad, state
        return (yield from self._newton_direction(grad, state, num_pairs)), state

    # Methods in place of indices in brackets, which take several times as long.

    def _newton_direction(self, grad: Tensor, state: Any, num_pairs: int) -> RequestGenerator:
        """Return the product of the approximate inverse Hessian and the gradient."""
        kept = min(num_pairs, self.history_size)
        oldest = num_pairs % kept
        s, y = state.s.narrow(0, 0, kept), state.y.narrow(0, 0, kept)
        products = _rolled(
            (yield Products(s, y, num_pairs=num_pairs)), -oldest
        )  # R; what is below the diagonal is not read
        weights = _rolled((yield Products(s, grad)), -oldest)
        curvatures = products.diagonal()
        newest = y.select(0, oldest - 1)
        scale = curvatures.select(0, -1) / (yield Products(newest.unsqueeze(0), newest)).squeeze(0)
        # Pairs may have too little curvature for the parameters of this step, which are others if some have joined or
        # left; and those of old checkpoints may be zero. Such pairs have no weight.
        is_curved = float(curvatures.min()) > _MIN_CURVATURE
        if not is_curved:
            curved = curvatures > _MIN_CURVATURE
            scale = torch.where(curved[-1], scale, 1.0)
            products = torch.where(curved & curved[:, None], products, 0.0) + torch.diag((~curved).to(products.dtype))
            weights, curvatures = torch.where(curved, weights, 0.0), torch.where(curved, curvatures, 0.0)
        alpha = torch.linalg.solve_triangular(products, weights.unsqueeze(1), upper=True).squeeze(1)
        q = _plus_combined(grad, -_rolled(alpha, oldest), y)
        beta = scale * _rolled((yield Products(y, q)), -oldest)
        weights = curvatures * alpha - (beta if is_curved else torch.where(curved, beta, 0.0))
        weights = torch.linalg.solve_triangular(products.t(), weights.unsqueeze(1), upper=False).squeeze(1)
        return scale.to(grad.dtype) * _plus_combined(q, _rolled(weights / scale, oldest), s)


def _rolled(values: Tensor, shift: int) -> Tensor:
    """Return values in another order: all dimensions are rolled by a number of places."""
    if not shift:
        return values
    return values.roll((shift, shift), (0, 1)) if values.dim() == 2 else values.roll(shift, 0)


def _plus_combined(tensor: Tensor, weights: Tensor, stack: Tensor) -> Tensor:
    """Return a tensor plus the sum of the tensors of a stack, each times its weight."""
    if tensor.dim() != 1:
        return _plus_combined(tensor.flatten(), weights, stack.flatten(1)).view(tensor.shape)
    return torch.addmv(tensor, stack.t(), weights.to(stack.dtype))
