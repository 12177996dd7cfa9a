"""Schedule-free: steps at one point, gradients at another, and a running average of the first as the result.

The parameters hold θ = (1 - β) z + β x; z is remembered, and x is what θ and z say it is. A rule that derives from this
gives the direction of the step, and `share`, which is β.

Source: Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.rule import Rule


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(
    Rule,
    owns_parameters=True,
    replaces_lr_schedule=True,
    has_eval_params=True,
    recurrent_scalars={"weight_sum": 0.0, "lr_max": 0.0},
):
    """What schedule-free rules share. Abstract."""

    warmup_steps: Scalar = hyper(0, ">= 0", symbol="T", unit="steps", doc="steps in which the learning rate grows")
    r: Scalar = hyper(0.0, ">= 0", symbol="r", doc="power of the step in the weights of the average")
    weight_lr_power: Scalar = hyper(2.0, ">= 0", symbol="p", doc="power of the learning rate in these weights")

    @property
    def share(self) -> Scalar:
        """β, the share of the average in the point where gradients are taken."""
        raise NotImplementedError

    def warm(self, step: int) -> Any:
        """The learning rate of a step."""
        return self.lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.lr  # type: ignore[attr-defined]

    def next_recurrent_scalars(self, step: int, before: Any) -> dict[str, float]:
        lr = self.warm(step)
        most = max(before.lr_max, lr)
        weight = step**self.r * most**self.weight_lr_power
        total = before.weight_sum + weight
        newest = weight / total if total > 0 else 0.0
        return {"weight_sum": total, "lr_max": most, "newest": newest, "ahead": lr * (1 - self.share * (1 - newest))}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        param = param + c.newest * (state.z - param) - c.ahead * direction
        return param, state._replace(z=state.z - c.lr * direction)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return param + c.away * (state.z - param)
