"""Schedule-free optimization: steps at z, gradients at θ between z and x, and the running average x of z as the result.

The parameters hold θ = (1 - β) z + β x. The state holds z, and x follows from θ and z. The average x is over the steps
of each parameter: without a gradient θ, z and x stay, and a parameter that joins late starts its own average. A rule
that derives from this class defines the direction of the step and `interpolation`, which is β.

Source: Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.rule import Rule, StepResult


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(
    Rule,
    owns_parameters=True,
    replaces_lr_schedule=True,
    has_eval_params=True,
    recurrent_scalars={"weight_sum": 0.0, "lr_max": 0.0},
):
    """The base class of schedule-free rules. Abstract."""

    warmup_steps: Scalar = hyper(0, ">= 0", symbol="T", unit="steps", doc="steps in which the learning rate grows")
    # Above 40, the weights of ten million steps would overflow.
    r: Scalar = hyper(0.0, "[0, 40]", symbol="r", doc="power of the step in the weights of the average")
    weight_lr_power: Scalar = hyper(2.0, ">= 0", symbol="p", doc="power of the learning rate in these weights")

    @property
    def interpolation(self) -> Scalar:
        """β, the share of the average x in the point θ at which gradients are taken."""
        raise NotImplementedError

    def warmup_lr(self, step: int) -> Any:
        """Return the learning rate of a step: η min(1, t / T)."""
        lr = self.lr  # type: ignore[attr-defined]  # a field of each rule; here it would change their order
        return lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else lr

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        lr = self.warmup_lr(step)
        lr_max = max(previous.lr_max, lr)
        weight = step**self.r * lr_max**self.weight_lr_power
        total = previous.weight_sum + weight
        newest = weight / total if total > 0 else 0.0
        ahead = lr * (1 - self.interpolation * (1 - newest))
        return {"weight_sum": total, "lr_max": lr_max, "newest": newest, "ahead": ahead}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> StepResult:
        param = param + c.newest * (state.z - param) - c.ahead * direction
        return param, state._replace(z=state.z - c.lr * direction)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return param + c.away * (state.z - param)
