"""Centralized: gradients with the mean of each unit subtracted.

    g_t ← g_t - mean(g_t)        over each row or filter; a bias or gain is unchanged; θ_t by the inner rule

Use: convolutional networks and linear layers, with SGD or Adam: it costs almost nothing, and training is often a little
faster.
Avoid: embeddings and the last layer: the means of their rows carry meaning.
Source: Yong, Huang, Hua & Zhang 2020, arXiv:2004.01461, equation 1.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import ReductionGenerator
from thalweg.rules.math.units import unit_mean


@dataclass(frozen=True, kw_only=True)
class Centralized(Wrapper, scope="tensor", supports_complex=False):
    """Gradients with the mean of each unit subtracted."""

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        if param.dim() < 2:
            return grad, state
        return grad - (yield from unit_mean(grad)), state
