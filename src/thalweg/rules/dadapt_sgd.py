"""DAdaptSGD: SGD with momentum whose learning rate is a growing lower bound of the distance to the solution.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}        N = ‖√ρ ∇f(θ_0)‖        sums over the whole model; ρ = η / η'
    r_t = r_{t-1} + d_{t-1} η' / N ⟨g_t, s_{t-1}⟩
    s_t = s_{t-1} + d_{t-1} η / N g_t
    d_t = max(d_{t-1}, min(2 r_t / ‖s_t / √ρ‖, d_{t-1} G))        from d_0
    θ_t = θ_{t-1} + (1 - μ) (θ_0 - s_t - θ_{t-1})

d, r and N are of the whole model. η is the learning rate of the parameter's group, η' the highest of all groups. The
sums cover all parameters with a gradient in groups with η > 0. A group at η = 0 is left out and does not move.

Use: convolutional networks without tuning a learning rate. Keep η at 1, or let it follow a schedule from 1.
Avoid: transformers: use DAdaptAdam or Prodigy.
Source: Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 4.
Departs: it follows the authors' package `dadaptation`: the penalty does not enter N, and a first gradient of zero is
skipped. N is raised to a millionth of any later ‖√ρ ∇f‖ and ‖√ρ λ θ‖, so that a first gradient near zero does not make
later steps unbounded. The package refuses groups with several learning rates above 0; here a group at ρη' takes the
steps that it would take at η' with its parameters in units √ρ times as large.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm, Sum
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.distance_estimate import counts_in_sums, initial_distance, max_growth
from thalweg.rules.math.scalars import sqrt

_LEAST_SHARE = 1e-6  # of the first norm in any later one


@dataclass(frozen=True, kw_only=True)
class DAdaptSGD(
    Rule,
    scope="model",
    lr_in_state=True,
    estimates_lr=True,
    owns_parameters=True,
    has_shared_state=True,
    shared_settings=("d0", "growth"),
    uses_model_lr=True,
):
    """SGD with momentum whose learning rate is a growing lower bound of the distance to the solution."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    momentum: Scalar = mean_decay(0.9, symbol="μ", keyword=None)
    d0: Scalar = initial_distance()
    growth: Scalar = max_growth()
    weight_decay: Scalar = decay.l2_penalty()

    class State:
        s = like_param(unit="θ", key="s")
        start = copy_of_param(key="x0")
        first = of_shape(unit="g", key="g0_norm", shared=True)
        d = of_shape(unit="θ", key="d", fill=lambda rule: rule.d0, shared=True)
        r = of_shape(unit="θ²", key="numerator_weighted", shared=True)

    def coefficients(self, step: int) -> Any:
        counts = counts_in_sums(self.lr)
        fresh = (1 - self.momentum) * counts
        return record(lr=self.lr, counts=counts, fresh=fresh, growth=self.growth, weight_decay=self.weight_decay)

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        counts = self.lr > 0
        return {
            "model_lr": model_lr,
            "root_lr_ratio": sqrt(self.lr / model_lr) if counts else 0.0,
            "over_root_lr_ratio": sqrt(model_lr / self.lr) if counts else 0.0,
        }

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        grad_norm = yield Norm(c.root_lr_ratio * grad, over="model")
        penalty_norm = yield Norm((c.root_lr_ratio * c.weight_decay) * param, over="model")
        first = torch.where(state.first > 0, state.first, grad_norm)
        least = _LEAST_SHARE * torch.maximum(grad_norm, penalty_norm)
        first = torch.where(first > 0, torch.maximum(first, least), first)
        unit = torch.where(first > 0, state.d / first, torch.zeros_like(first))
        g = decay.coupled(grad, param, c)
        r = state.r + c.model_lr * unit * (yield Sum(c.counts * g * state.s, over="model"))
        s = state.s + c.lr * unit * g
        s_norm = yield Norm(c.over_root_lr_ratio * s, over="model")
        estimate = torch.where(s_norm > 0, 2 * r / s_norm, state.d)
        d = torch.maximum(state.d, torch.minimum(estimate, state.d * c.growth))
        return s, state._replace(s=s, first=first, d=d, r=r)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param + c.fresh * (state.start - direction - param), state
