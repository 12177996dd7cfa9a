"""FixedNorms: each unit's weights put back to the norm they began with, after each step (weight normalization).

    θ_t as the inner rule says
    θ_t ← θ_t ‖θ_{t-1}‖ / ‖θ_t‖        norms over each row or filter; a bias or gain is left alone

Only the direction of each unit is trained; its size is what the initialization made it.

Use: layers that a normalization or a gain follows: their size changes only the effective learning rate.
Avoid: layers whose size matters: the last one, regression heads. A unit that starts at zero stays there. Of an
average around this the norms are smaller.
Source: Salimans & Kingma 2016, arXiv:1602.07868, whose w = s v/‖v‖ it keeps at its first value, as a projection.
Departs: s is not trained; torch.nn.utils.parametrizations.weight_norm is the reparametrization that trains it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.math.roots import root
from thalweg.rules.math.units import unit_sum


@dataclass(frozen=True, kw_only=True)
class FixedNorms(Wrapper, scope="tensor", supports_complex=False):
    """Each unit's weights put back to the norm they began with, after each step (weight normalization)."""

    effects = frozenset({"moves parameters", "bounds parameters", "preserves norms", "may exceed bounds"})

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> ReductionGenerator:
        before = root((yield from unit_sum(param * param)))
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        if param.dim() < 2:
            return param, state
        after = root((yield from unit_sum(param * param)))
        # A step that ended at zero has no direction; there the unit stays zero.
        return param * (before / torch.clamp(after, min=1e-30)), state
