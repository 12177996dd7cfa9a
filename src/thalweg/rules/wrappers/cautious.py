"""Cautious: the inner step only where it agrees with the gradient, scaled up to make up for the rest.

    k_t = 1 where d_t g_t > 0, else 0
    d_t ← d_t k_t / max(mean(k_t), 10⁻³)        θ_t by the inner rule, with this d_t

Use: rules with momentum, at their usual settings: to first order, the loss never rises.
Avoid: training in which the step takes most of the time: the mean needs one more pass over the tensor.
Source: Liang, Chen, Liu & Liu 2024, arXiv:2411.16085, Algorithm 1; the lower bound of the mean is from the authors'
code.
Departs: the scale, as in the authors' code; in Algorithm 1 it is n / (Σk + 1). Decoupled weight decay of the inner rule
is not masked, as in that code, unless it is a part of the step (`explain` says "in the step").
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import Mean, RequestGenerator, resolve_reductions

_MIN_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Cautious(Wrapper, scope="tensor"):
    """The inner step only where it agrees with the gradient, scaled up to make up for the rest."""

    effects = frozenset({"masks direction"})

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        d, state = yield from resolve_reductions(self.inner.direction(param, grad, state, c))
        agrees = (d * grad > 0).to(d.dtype)
        share = yield Mean(agrees)
        return d * (agrees / torch.clamp(share, min=_MIN_SHARE)), state
