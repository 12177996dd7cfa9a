"""Clip: all gradients scaled down by one factor, so that their norm over the model is at most a threshold.

    N_t = √(Σ over all parameters of g_t²)
    g_t ← g_t min(1, c / (N_t + 10⁻⁶))        θ_t by the inner rule, with this g_t

Use: training in which gradients explode now and then: recurrent networks, transformers, reinforcement learning.
Avoid: a learning rate that is too large: if most steps are clipped, lower the learning rate.
Source: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, Algorithm 1.
Departs: 10⁻⁶ is added to the norm, as in torch.nn.utils.clip_grad_norm_. `param.grad` is not changed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator

_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Clip(Wrapper, scope="model"):
    """All gradients scaled down by one factor, so that their norm over the model is at most a threshold."""

    max_norm: Scalar = hyper(1.0, "> 0", symbol="c", unit="g", doc="largest norm over the model")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"max_norm": self.max_norm}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        norm = yield Norm(grad, over="model")
        return grad * torch.clamp(c.max_norm * (norm + _NORM_EPS).reciprocal(), max=1.0), state
