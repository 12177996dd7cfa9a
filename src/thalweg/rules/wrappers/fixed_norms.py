"""FixedNorms: the weights of each unit rescaled to their initial norm after each step (weight normalization).

    θ_t by the inner rule
    θ_t ← θ_t ‖θ_{t-1}‖ / ‖θ_t‖        norms over each row or filter; a bias or gain is unchanged

Only the direction of each unit is trained. Its size stays as it was initialized.

Use: layers that are followed by a normalization or a gain: their size changes only the effective learning rate.
Avoid: layers whose size matters: the last layer, regression heads. A unit that starts at zero stays at zero. An average
of the parameters around this wrapper has smaller norms.
Source: Salimans & Kingma 2016, arXiv:1602.07868: w = s v/‖v‖ with s fixed at its first value, as a projection.
Departs: s is not trained. torch.nn.utils.parametrizations.weight_norm is the reparametrization that trains it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.math.units import unit_norm


@dataclass(frozen=True, kw_only=True)
class FixedNorms(Wrapper, scope="tensor", supports_complex=False):
    """The weights of each unit rescaled to their initial norm after each step (weight normalization)."""

    effects = frozenset({"moves parameters", "bounds parameters", "preserves norms", "may exceed bounds"})

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        norm = yield from unit_norm(param)
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        if param.dim() < 2:
            return param, state
        new_norm = yield from unit_norm(param)
        # A unit that a step moves to zero has no direction. It stays zero.
        return param * (norm / torch.clamp(new_norm, min=1e-30)), state
