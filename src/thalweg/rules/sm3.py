"""SM3: AdaGrad with one sum for each slice of a tensor instead of one for each element.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    ν_t = min over dimensions i of a_{t-1}(i) + g_t²        a(i) has an entry for each index of dimension i
    a_t(i) = max of ν_t over all other dimensions
    m_t = β m_{t-1} + (1 - β) g_t / √ν_t                    0/0 = 0
    θ_t = θ_{t-1} - η m_t

Use: embeddings and matrices so large that their squared gradients do not fit into memory.
Avoid: long training of deep networks: as in AdaGrad, the sums only grow.
Source: Anil, Gupta, Koren & Singer 2019, arXiv:1901.11150, Algorithm SM3-II with covers by slices; momentum as in
section 5.
Departs: an L2 penalty.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Max
from thalweg.rules.core.rule import MAX_DIMS, Rule
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.roots import root

_TINY = 1e-30  # makes 0/0 equal 0


def _slices(dim: int) -> Any:
    """Declare the accumulator of a dimension. It has size 1 in all other dimensions."""

    def shaped(rule: Any, shape: torch.Size) -> torch.Size:
        return torch.Size(size if k == dim else 1 for k, size in enumerate(shape))

    when: Callable[[Any, torch.Size], bool] = lambda rule, shape: dim < max(1, len(shape))  # noqa: E731
    return of_shape(shaped, unit="g²", key=f"accumulator_{dim}", when=when)


@dataclass(frozen=True, kw_only=True)
class SM3(Rule, scope="tensor", supports_complex=False, max_dims=MAX_DIMS):
    """AdaGrad with one sum for each slice of a tensor instead of one for each element."""

    lr: Scalar = learning_rate(0.1, low=1e-4, high=10.0)
    momentum: Scalar = mean_decay(0.9, symbol="β", keyword=None)
    weight_decay: Scalar = decay.l2_penalty()

    State = type(  # type: ignore[assignment]  # one field for each possible dimension
        "State",
        (),
        {"m": like_param(unit="1", key="momentum_buffer"), **{f"a{dim}": _slices(dim) for dim in range(MAX_DIMS)}},
    )

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, momentum=self.momentum, fresh=1 - self.momentum, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        g = decay.coupled(grad, param, c)
        dims = range(max(1, g.dim()))
        minimum = state.a0
        for dim in dims[1:]:
            minimum = torch.minimum(minimum, getattr(state, f"a{dim}"))
        sums = minimum + g * g
        accumulators = {}
        for dim in dims:
            other_dims = tuple(k - g.dim() for k in range(g.dim()) if k != dim)
            accumulators[f"a{dim}"] = (yield Max(sums, dim=other_dims)) if other_dims else sums
        m = c.momentum * state.m + c.fresh * (g / root(sums + _TINY))
        return m, state._replace(m=m, **accumulators)
