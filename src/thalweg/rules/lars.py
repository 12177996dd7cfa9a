"""LARS: SGD with momentum whose learning rate is, for each matrix, proportional to the norm of the matrix.

    r_t = ζ ‖θ_{t-1}‖ / (‖g_t‖ + λ ‖θ_{t-1}‖ + ε)        1 where a norm is 0, and for biases and gains
    b_t = μ b_{t-1} + r_t (g_t + λ θ_{t-1})
    θ_t = θ_{t-1} - η b_t                                Nesterov: η (r_t (g_t + λ θ_{t-1}) + μ b_t)

Use: convolutional networks with batches of thousands of examples.
Avoid: small batches: there it has no advantage over momentum.
Source: You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.
Departs: η multiplies the buffer and does not enter it, as in torch.optim.SGD. ε is added to the divisor. Parameters
with fewer than two dimensions step as with SGD; the paper's experiments do this, its algorithm does not.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, switch
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class LARS(Rule, scope="tensor"):
    """SGD with momentum whose learning rate is, for each matrix, proportional to the norm of the matrix."""

    lr: Scalar = learning_rate(0.1, low=1e-3, high=100.0, unit="1")
    momentum: Scalar = hyper(
        0.9, "[0, 1)", symbol="μ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="weight of the last buffer"
    )
    trust: Scalar = hyper(1e-3, "> 0", symbol="ζ", doc="size of a step relative to the parameter, at η = 1")
    eps: Scalar = epsilon(1e-8, place="added to the norms")
    weight_decay: Scalar = decay.l2_penalty()
    nesterov: bool = switch(False, doc="use Nesterov's momentum")

    class State:
        b = like_param(unit="g", key="momentum_buffer")

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr, momentum=self.momentum, trust=self.trust, eps=self.eps, weight_decay=self.weight_decay
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        g = decay.coupled(grad, param, c)
        if param.dim() > 1:
            param_norm, grad_norm = (yield Norm(param)), (yield Norm(grad))
            ratio = c.trust * param_norm / (grad_norm + c.weight_decay * param_norm + c.eps)
            g = g * torch.where((param_norm > 0) & (grad_norm > 0), ratio, torch.ones_like(ratio))
        b = c.momentum * state.b + g
        return (g + c.momentum * b if self.nesterov else b), state._replace(b=b)
