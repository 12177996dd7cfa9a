"""Shampoo: gradients multiplied, along each dimension, by an inverse root of all gradients' products so far.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    H_i = ε I + Σ g_t g_tᵀ        for each dimension i of k, the product summed over all others
    d_t = g_t multiplied along each dimension by H_i^(-1/2k)
    b_t = μ b_{t-1} + d_t
    θ_t = θ_{t-1} - η b_t         the roots are computed anew every n steps

Use: matrices and convolutions of moderate size, in large batches, where curvature between parameters matters.
Avoid: dimensions of many thousands: its matrices are their squares. SOAP is easier to tune.
Source: Gupta, Koren & Singer 2018, arXiv:1802.09568, Algorithm 2.
Departs: momentum, an L2 penalty, and roots that may be older than the sums; a single number counts as one dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.base import decay
from thalweg.rules.base.hyper import Range, Scalar, count, epsilon, hyper, learning_rate
from thalweg.rules.base.matrices import along, each_dim, inverse_root, outer
from thalweg.rules.base.rows import row
from thalweg.rules.base.rule import Rule, like_param


def _first(rule: Any, size: int, param: Tensor) -> Tensor:
    return rule.eps * torch.eye(size, dtype=param.dtype, device=param.device)


@dataclass(frozen=True, kw_only=True)
class Shampoo(Rule, scope="matrix"):
    """Gradients multiplied, along each dimension, by an inverse root of all gradients' products so far."""

    lr: Scalar = learning_rate(0.1, low=1e-3, high=10.0)
    momentum: Scalar = hyper(
        0.0, "[0, 1)", symbol="μ", search=Range(0.5, 0.99, "log-to-one"), order=2, doc="share of the last step kept"
    )
    eps: Scalar = epsilon(1e-4, place="on the diagonals", unit="g²")
    update_every: int = count(1, ">= 1", symbol="n", doc="steps between two computations of the roots")
    weight_decay: Scalar = decay.l2_penalty()

    takes_complex = False
    vmaps = False

    State = type(  # type: ignore[assignment]  # as many as there may be dimensions
        "State",
        (),
        {
            "b": like_param(unit="1", key="momentum_buffer", when=lambda rule, shape: rule.momentum != 0),
            **each_dim("h", unit="g²", key="precond", first=_first),
            **each_dim("root", unit="1/g", key="inv_precond"),
        },
    )

    def coefficients(self, step: int) -> Any:
        return row(
            lr=self.lr,
            momentum=self.momentum,
            refreshes=float((step - 1) % self.update_every == 0),
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        g = decay.coupled(grad, param, c)
        d = g.reshape(1) if g.dim() == 0 else g
        num_dims, kept = d.dim(), {}
        for dim in range(num_dims):
            kept[f"h{dim}"] = h = getattr(state, f"h{dim}") + outer(g.reshape(1) if g.dim() == 0 else g, dim)
            kept[f"root{dim}"] = inverse_root(h, 2 * num_dims) if c.refreshes else getattr(state, f"root{dim}")
            d = along(d, kept[f"root{dim}"], dim)
        d, state = d.reshape(g.shape), state._replace(**kept)
        if self.momentum == 0:
            return d, state
        b = c.momentum * state.b + d
        return b, state._replace(b=b)
