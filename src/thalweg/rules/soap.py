"""SOAP: Adam in the directions that Shampoo would scale: those of the eigenvectors of its matrices.

    H_i ← β H_i + (1 - β) g_t g_tᵀ           for each dimension i, the product summed over all others, after the step
    Q_i = eigenvectors of H_i, by one power iteration and QR every n steps, in falling order of eigenvalues
    m_t = β₁ m_{t-1} + (1 - β₁) g_t           m'_t = m_t turned into Q,  g'_t likewise
    v_t = β₂ v_{t-1} + (1 - β₂) g'_t²         in the directions of Q
    d_t = m'_t / (√v_t + ε), turned back
    θ_t = (1 - ηλ) (θ_{t-1} - η √(1 - β₂^(t-1)) / (1 - β₁^(t-1)) d_t)

The first step only makes H and Q. A single number is not turned.

Use: language models and image models, in larger batches, at AdamW's settings with a larger η.
Avoid: dimensions of many thousands: its matrices are their squares.
Source: Vyas et al. 2024, arXiv:2409.11321, Algorithm 3.
Departs: as the authors' code: the first step, ε before the correction, the decay after the step; every dimension is
turned, without a limit. β is β₂ unless it is given.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.base import decay
from thalweg.rules.base.hyper import Scalar, count, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.base.matrices import along, each_dim, outer
from thalweg.rules.base.roots import root
from thalweg.rules.base.rows import row
from thalweg.rules.base.rule import Rule, like_param


@dataclass(frozen=True, kw_only=True)
class SOAP(Rule, scope="matrix"):
    """Adam in the directions that Shampoo would scale: those of the eigenvectors of its matrices."""

    lr: Scalar = learning_rate(3e-3)
    beta1: Scalar = mean_decay(0.95)
    beta2: Scalar = square_decay(0.95)
    shampoo_beta: Scalar = hyper(-1.0, "[-1, 1)", symbol="β", doc="decay of the matrices; below 0 that of β₂")
    eps: Scalar = epsilon(1e-8)
    update_every: int = count(10, ">= 1", symbol="n", doc="steps between two turns of the directions")
    weight_decay: Scalar = decay.shrinkage(0.01)

    corrects_bias = True
    takes_complex = False
    vmaps = False

    State = type(  # type: ignore[assignment]  # as many as there may be dimensions
        "State",
        (),
        {
            "m": like_param(unit="g", key="exp_avg"),
            "v": like_param(unit="g²", key="exp_avg_sq"),
            **each_dim("h", unit="g²", key="precond", single_numbers=False),
            **each_dim("q", unit="1", key="basis", single_numbers=False),
        },
    )

    def coefficients(self, step: int) -> Any:
        keep = self.shampoo_beta if self.shampoo_beta >= 0 else self.beta2
        taken = step - 1
        size = (1 - self.beta2**taken) ** 0.5 / (1 - self.beta1**taken) if taken else 0.0
        return row(
            lr=self.lr,
            beta1=self.beta1 if taken else 0.0,
            fresh1=1 - self.beta1 if taken else 0.0,
            beta2=self.beta2 if taken else 0.0,
            fresh2=1 - self.beta2 if taken else 0.0,
            size=size,
            keep=keep,
            fresh=1 - keep,
            starts=float(taken == 0),
            turns=float(taken > 0 and taken % self.update_every == 0),
            eps=self.eps,
            shrink=decay.shrink(self) if taken else 1.0,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        dims = range(grad.dim())
        bases = [getattr(state, f"q{dim}") for dim in dims]
        m = c.beta1 * state.m + c.fresh1 * grad
        turned_grad, turned_m = grad, m
        for dim in dims:
            turned_grad, turned_m = (along(one, bases[dim], dim) for one in (turned_grad, turned_m))
        v = c.beta2 * state.v + c.fresh2 * (turned_grad * turned_grad)
        d = c.size * turned_m / (root(v) + c.eps)
        kept = {}
        for dim in dims:
            d = along(d, bases[dim].mT, dim)
            kept[f"h{dim}"] = h = c.keep * getattr(state, f"h{dim}") + c.fresh * outer(grad, dim)
            if c.starts:
                bases[dim] = torch.linalg.eigh(h).eigenvectors.flip(-1)
            elif c.turns:
                bases[dim], order = _turned(bases[dim], h)
                v = v.index_select(dim, order)
            kept[f"q{dim}"] = bases[dim]
        return d, state._replace(m=m, v=v, **kept)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return decay.decoupled(param - c.lr * direction, c), state


def _turned(basis: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors, one power iteration on; and the order in which the old ones come, by falling eigenvalues."""
    values = (basis * (matrix @ basis)).sum(-2)
    order = torch.argsort(values, descending=True)
    return torch.linalg.qr(matrix @ basis.index_select(-1, order)).Q, order
