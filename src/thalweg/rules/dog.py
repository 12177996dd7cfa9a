"""DoG: gradient descent with the learning rate (distance from the start) / √(sum of squared gradients).

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    r_t = max(r_{t-1}, ‖θ_{t-1} - θ_0‖)        r_1 = ρ (1 + ‖θ_0‖)
    G_t = G_{t-1} + ‖g_t‖²
    θ_t = θ_{t-1} - η r_t / √(G_t + ε) g_t     norms over the whole model

r and G are of the whole model. The norms cover all parameters with a gradient in groups with η > 0; r_1 is that of the
first gradient which is not zero.

Use: fine-tuning without tuning a learning rate. Keep η at 1.
Avoid: training from scratch with a schedule. There, evaluate the model at an average of the parameters (MovingAverage)
instead of using a schedule. Layers that are unfrozen late: their steps are as small as those of the others; LDoG starts
each tensor anew.
Source: Ivgi, Hinder & Carmon 2023, arXiv:2302.12022, equation 1.
Departs: an L2 penalty; the state holds √G; norms over the parameters of all groups.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.distance_estimate import counts_in_sums
from thalweg.rules.math.roots import hypot
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class DoGStep(Rule, estimates_lr=True):
    """Base class of DoG and LDoG, which differ in the range of their norms. Abstract."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    reps_rel: Scalar = hyper(1e-6, "> 0", symbol="ρ", doc="size of the first step, relative to the parameters")
    eps: Scalar = epsilon(1e-8, place="inside the root", unit="g²")
    weight_decay: Scalar = decay.l2_penalty()

    over: ClassVar[Literal["tensor", "model"]]

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            counts=counts_in_sums(self.lr),
            reps_rel=self.reps_rel,
            root_eps=sqrt(self.eps),
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        g = decay.coupled(grad, param, c)
        displacement = param - state.start
        distance = yield Norm(c.counts * displacement, over=self.over)
        norm = yield Norm(c.counts * param, over=self.over)
        total_norm = hypot(state.total_norm, (yield Norm(c.counts * g, over=self.over)))
        r = torch.where(state.total_norm > 0, torch.maximum(state.r, distance), c.reps_rel * (1 + norm))
        divisor = hypot(total_norm, torch.zeros_like(total_norm) + c.root_eps)
        return r * (g / divisor), state._replace(r=r, total_norm=total_norm)


@dataclass(frozen=True, kw_only=True)
class DoG(DoGStep, scope="model", has_shared_state=True, shared_settings=("reps_rel",)):
    """Gradient descent with the learning rate (distance from the start) / √(sum of squared gradients)."""

    over = "model"

    class State:
        start = copy_of_param(key="x0")
        r = of_shape(unit="θ", key="distance", shared=True)
        total_norm = of_shape(unit="g", key="grad_norm", shared=True)  # √G: squares leave the range of float32 early
