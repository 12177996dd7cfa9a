"""DecoupledDecay: the parameter shrunk beside the step of a rule, in place of a decay of its own.

    θ_t = (1 - η_t λ) θ_{t-1} - step_t        step_t as the inner rule says

Use: rules that scale by element (Adam's family, sign methods), at the λ of AdamW.
Avoid: biases, gains of normalization layers, embeddings: give them a group of their own.
Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithms 1 and 2.
Departs: η multiplies λ, as in torch.optim.AdamW; in the paper it does not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class DecoupledDecay(Wrapper):
    """The parameter shrunk beside the step of a rule, in place of a decay of its own."""

    weight_decay: Scalar = decay.shrinkage()

    replaced_settings = frozenset({"weight_decay"})
    effects = frozenset({"moves parameters", "decays by lr"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"left": 1 - self.base_lr(step) * self.weight_decay}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return self.inner.apply(c.left * param, direction, state, c)
