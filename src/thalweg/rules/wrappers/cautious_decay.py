"""CautiousDecay: weight decay only where the step also shrinks the parameter.

    k_t = 1 where d_t θ_{t-1} ≥ 0, else 0
    θ_t = (1 - η_t λ k_t) θ_{t-1} - step_t        step_t by the inner rule

Use: training with decoupled decay, at the same λ: it reaches lower losses because the decay never opposes the step.
Avoid: training in which the decay must make the parameters forget.
Source: Chen, Li, Liang, Su, Xie, Pierse, Liang, Lao & Liu 2025, arXiv:2510.12402, Algorithm 1.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class CautiousDecay(Wrapper):
    """Weight decay only where the step also shrinks the parameter."""

    weight_decay: Scalar = decay.shrinkage()

    replaced_settings = frozenset({"weight_decay"})
    effects = frozenset({"moves parameters", "masks direction", "decays by lr", "decays by lr alone"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"masked_decay": self.base_lr(step) * self.weight_decay}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        agrees = (direction * param >= 0).to(param.dtype)
        return self.inner.apply(param - c.masked_decay * agrees * param, direction, state, c)
