"""CoupledDecay: an L2 penalty in place of the inner rule's own weight decay.

    g_t ← g_t + λ θ_{t-1}        θ_t by the inner rule, with this g_t

Use: plain SGD and momentum, for which it equals decoupled decay up to the factor η.
Avoid: rules that scale each element: they also scale the penalty, so it has almost no effect. Use DecoupledDecay.
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
    """An L2 penalty in place of the inner rule's own weight decay."""

    weight_decay: Scalar = decay.l2_penalty()

    replaced_settings = frozenset({"weight_decay"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"penalty": self.weight_decay}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad + param * c.penalty, state
