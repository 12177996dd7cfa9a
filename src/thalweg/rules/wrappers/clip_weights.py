"""ClipWeights: parameters clipped to bounds after each step.

    θ_t by the inner rule
    θ_t ← min(max(θ_t, -b), b)

Use: continual and reinforcement learning, where weights grow without limit; critics that must be Lipschitz.
Avoid: networks whose gains or embeddings need large values: put them into a separate group.
Source: Elsayed, Lan, Lyle & Mahmood 2024, arXiv:2407.01704, Algorithm 1; Arjovsky et al. 2017, arXiv:1701.07875.
Departs: one bound for all parameters, as in Arjovsky et al.; groups may have different bounds. In Elsayed et al. the
bound is a multiple of each layer's initial range.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions


@dataclass(frozen=True, kw_only=True)
class ClipWeights(Wrapper):
    """Parameters clipped to bounds after each step."""

    largest: Scalar = hyper(1.0, "> 0", symbol="b", unit="θ", doc="largest size of a parameter")

    effects = frozenset({"moves parameters", "bounds parameters"})

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"bound": self.largest, "opposite_bound": -self.largest}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        return torch.clamp(param, min=c.opposite_bound, max=c.bound), state
