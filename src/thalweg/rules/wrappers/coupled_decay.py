"""CoupledDecay: an L2 penalty around a rule, in place of a decay of its own.

    g_t ← g_t + λ θ_{t-1}        θ_t as the inner rule says, with this g_t

Use: plain SGD and momentum, where it is the same as decoupled decay up to the factor η.
Avoid: rules that scale by element: the penalty passes through the scaling and hardly acts; use DecoupledDecay.
Source: Krogh & Hertz 1991 (NeurIPS 4), equation 2.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class CoupledDecay(Wrapper):
    """An L2 penalty around a rule, in place of a decay of its own."""

    weight_decay: Scalar = decay.l2_penalty()

    replaced_settings = frozenset({"weight_decay"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"penalty": self.weight_decay}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad + param * c.penalty, state
