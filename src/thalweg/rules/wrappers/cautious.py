"""Cautious: the inner step only where it agrees with the gradient, scaled up for what is left out.

    k_t = 1 where d_t g_t > 0, else 0
    d_t ← d_t k_t / max(mean(k_t), 10⁻³)        θ_t as the inner rule says, with this d_t

Use: around a rule with momentum, at the settings it had: the loss never rises to first order.
Avoid: where a step costs most of the time: the mean is another pass over the tensor.
Source: Liang, Chen, Liu & Liu 2024, arXiv:2411.16085, Algorithm 1; the floor of the mean from the authors' code.
Departs: from Algorithm 1, whose scale is n / (Σk + 1): as the authors' code. Decoupled weight decay of the inner rule
is not masked, as there, unless it is a part of the step (`explain` says "in the step").
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import Mean, ReductionGenerator, resolve_reductions

_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Cautious(Wrapper, scope="tensor"):
    """The inner step only where it agrees with the gradient, scaled up for what is left out."""

    effects = frozenset({"masks direction"})

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        d, state = yield from resolve_reductions(self.inner.direction(param, grad, state, c))
        agrees = (d * grad > 0).to(d.dtype)
        share = yield Mean(agrees)
        return d * (agrees / torch.clamp(share, min=_FLOOR)), state
