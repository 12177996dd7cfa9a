"""DecoupledDecay: decoupled weight decay in place of the inner rule's own weight decay.

    θ_t = (1 - η_t λ) θ_{t-1} - step_t        step_t by the inner rule

Use: rules that scale each element (Adam's family, sign methods), at AdamW's λ.
Avoid: biases, gains of normalization layers, embeddings: put them into a separate group. Rules whose η is a factor near
1 (Adadelta, LARS, AdaHessian) are refused: use FullyDecoupledDecay.
Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithms 1 and 2.
Departs: η multiplies λ, as in torch.optim.AdamW. In the paper it does not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar
from thalweg.rules.math import decay


@dataclass(frozen=True, kw_only=True)
class DecoupledDecay(Wrapper):
    """Decoupled weight decay in place of the inner rule's own weight decay."""

    weight_decay: Scalar = decay.shrinkage()

    replaced_settings = frozenset({"weight_decay"})
    effects = frozenset({"moves parameters", "decays by lr", "decays by lr alone"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"left": 1 - self.base_lr(step) * self.weight_decay}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return self.inner.apply(c.left * param, direction, state, c)
