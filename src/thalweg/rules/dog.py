"""DoG: gradient descent with the learning rate (distance from the start) / √(sum of squared gradients).

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    r_t = max(r_{t-1}, ‖θ_{t-1} - θ_0‖)        r_1 = ρ (1 + ‖θ_0‖)
    G_t = G_{t-1} + ‖g_t‖²
    θ_t = θ_{t-1} - η r_t / √(G_t + ε) g_t     norms over the whole model

Use: fine-tuning without tuning a learning rate. Keep η at 1.
Avoid: training from scratch with a schedule. There, evaluate the model at an average of the parameters (MovingAverage)
instead of using a schedule.
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
from thalweg.rules.math.roots import hypot


@dataclass(frozen=True, kw_only=True)
class DoGStep(Rule, estimates_lr=True):
    """Base class of DoG and LDoG, which differ in the range of their norms. Abstract."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    reps_rel: Scalar = hyper(1e-6, "> 0", symbol="ρ", doc="size of the first step, relative to the parameters")
    eps: Scalar = epsilon(1e-8, place="inside the root", unit="g²")
    weight_decay: Scalar = decay.l2_penalty()

    over: ClassVar[Literal["tensor", "model"]]

    class State:
        start = copy_of_param(key="x0")
        r = of_shape(unit="θ", key="distance")
        total_norm = of_shape(unit="g", key="grad_norm")  # √G: the sum of squares leaves the range of float32 early

    def coefficients(self, step: int) -> Any:
        first = self.reps_rel if step == 1 else 0.0
        return record(lr=self.lr, first=first, root_eps=self.eps**0.5, weight_decay=self.weight_decay)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        g = decay.coupled(grad, param, c)
        displacement = param - state.start
        distance = yield Norm(displacement, over=self.over)
        norm = yield Norm(param, over=self.over)
        total_norm = hypot(state.total_norm, (yield Norm(g, over=self.over)))
        r = torch.maximum(torch.maximum(state.r, distance), c.first * (1 + norm))
        divisor = hypot(total_norm, torch.zeros_like(total_norm) + c.root_eps)
        return r * (g / divisor), state._replace(r=r, total_norm=total_norm)


@dataclass(frozen=True, kw_only=True)
class DoG(DoGStep, scope="model"):
    """Gradient descent with the learning rate (distance from the start) / √(sum of squared gradients)."""

    over = "model"
