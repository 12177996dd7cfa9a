"""DoWG: DoG with each squared gradient weighted by the squared distance from the start.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    r_t = max(r_{t-1}, ‖θ_{t-1} - θ_0‖)        r_0 = ε
    v_t = v_{t-1} + r_t² ‖g_t‖²
    θ_t = θ_{t-1} - η r_t² / √v_t g_t          norms over the whole model

r and v are of the whole model. The norms cover all parameters with a gradient in groups with η > 0.

Use: convex problems without tuning a learning rate. Keep η at 1.
Avoid: noisy training of deep networks: DoG with an average of the parameters is safer. Layers that are unfrozen late:
their steps are as small as those of the others.
Source: Khaled, Mishchenko & Jin 2023, arXiv:2305.16284, Algorithm 1.
Departs: an L2 penalty; the state holds √v / r.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.distance_estimate import counts_in_sums
from thalweg.rules.math.roots import as_divisor, hypot


@dataclass(frozen=True, kw_only=True)
class DoWG(Rule, scope="model", estimates_lr=True, has_shared_state=True, shared_settings=("eps",)):
    """DoG with each squared gradient weighted by the squared distance from the start."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    eps: Scalar = hyper(1e-4, "> 0", symbol="ε", unit="θ", doc="first distance", place="the first distance")
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        start = copy_of_param(key="x0")
        r = of_shape(unit="θ", key="distance", shared=True)
        weighted_norm = of_shape(unit="g", key="weighted_norm", shared=True)  # √v / r, which has the size of a gradient

    def coefficients(self, step: int) -> Any:
        return record(lr=self.lr, counts=counts_in_sums(self.lr), eps=self.eps, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        g = decay.coupled(grad, param, c)
        displacement = param - state.start
        distance = yield Norm(c.counts * displacement, over="model")
        r = torch.clamp(torch.maximum(state.r, distance), min=c.eps)
        weighted_norm = hypot(state.weighted_norm * (state.r / r), (yield Norm(c.counts * g, over="model")))
        return r * (g / as_divisor(weighted_norm)), state._replace(r=r, weighted_norm=weighted_norm)
