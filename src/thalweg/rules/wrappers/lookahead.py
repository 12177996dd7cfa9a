"""Lookahead: slow parameters that move towards the fast ones every few steps and then replace them.

    θ_t by the inner rule
    every k steps:  φ_t = φ_{t-1} + α (θ_t - φ_{t-1}),  θ_t = φ_t        φ_0 = θ_0

Evaluate the model at φ. Steps are those of each parameter: without a gradient θ and φ stay.

Use: rules whose steps fluctuate: it averages the fluctuations, and the inner learning rate may be larger.
Avoid: a learning rate that ends near zero: little is then left to average.
Source: Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610, Algorithm 1.
Departs: nothing. The inner rule keeps its state when the slow parameters replace the fast ones, as the authors
recommend.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.state import copy_of_param


@dataclass(frozen=True, kw_only=True)
class Lookahead(Wrapper):
    """Slow parameters that move towards the fast ones every few steps and then replace them."""

    every: Scalar = hyper(5, ">= 1", symbol="k", unit="steps", doc="steps between two moves of the slow parameters")
    slow_step: Scalar = hyper(0.5, "(0, 1]", symbol="α", doc="move of the slow parameters, as a share of the distance")

    effects = frozenset({"moves parameters", "averages parameters"})

    class State:
        slow = copy_of_param(key="slow_param")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        synchronizes = float(step % round(float(self.every)) == 0)
        return {"slow_step": synchronizes * self.slow_step, "slow_share": synchronizes, "fast_share": 1 - synchronizes}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        slow = state.slow + c.slow_step * (param - state.slow)
        return c.fast_share * param + c.slow_share * slow, state._replace(slow=slow)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return state.slow
