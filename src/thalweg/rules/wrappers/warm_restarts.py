"""WarmRestarts: a learning rate that falls along half a cosine and restarts, with longer and longer periods (SGDR).

    η_t = η_min + (η - η_min) (1 + cos(π T_t / T)) / 2        T_t steps since the last restart; T ← T m at each restart
    θ_t by the inner rule, with this η_t

Use: training that must leave a poor minimum, or that needs a usable model at each restart.
Avoid: another schedule of the learning rate at the same time.
Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.
Departs: it counts the steps of each parameter, not epochs. torch.optim.lr_scheduler.CosineAnnealingWarmRestarts changes
`group["lr"]`; this wrapper changes the rate inside the step.
"""

import math
from dataclasses import dataclass
from typing import Any

from thalweg.errors import SettingError
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.rule import Rule
from thalweg.rules.math.scalars import as_number, cos, floor, log


@dataclass(frozen=True, kw_only=True)
class WarmRestarts(Wrapper):
    """A learning rate that falls along half a cosine and restarts, with longer and longer periods (SGDR)."""

    period: Scalar = hyper(1000, ">= 1", symbol="T", unit="steps", doc="length of the first period")
    stretch: Scalar = hyper(2, ">= 1", symbol="m", doc="ratio of the lengths of two successive periods")
    lr_min: Scalar = hyper(0.0, ">= 0", symbol="η_min", unit="θ", doc="lowest learning rate")

    def __post_init__(self) -> None:
        super().__post_init__()
        lr = self.inner.settings()["lr"]  # the first value: a later warm-up may start below lr_min
        if self.lr_min > lr:
            raise SettingError(
                f"{self.name}: lr_min must be at most lr, got lr_min={self.lr_min!r} and lr={lr!r}. Lower lr_min."
            )

    def base_lr(self, step: int) -> Any:
        elapsed, period = self._position(step - 1)
        factor = (1 + cos(math.pi * elapsed / period)) / 2
        return self.lr_min + (self.inner.base_lr(step) - self.lr_min) * factor

    def _position(self, completed: int) -> tuple[Any, Any]:
        """Return the steps since the last restart, and the length of the period that began there."""
        first, stretch = as_number(self.period), as_number(self.stretch)
        if stretch == 1:
            return completed % first, first

        def restart(number: Any) -> Any:  # the steps before a restart: a geometric series
            return first * (stretch**number - 1) / (stretch - 1)

        number = floor(log(1 + completed * (stretch - 1) / first) / log(stretch))
        if completed < restart(number):  # the logarithms are rounded
            number = number - 1
        elif completed >= restart(number + 1):
            number = number + 1
        return completed - restart(number), first * stretch**number

    def coefficients(self, step: int) -> Any:
        return self._rule_at(step).coefficients(step)

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        return self._rule_at(step).next_recurrent_scalars(step, previous)

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return self._rule_at(step).model_coefficients(step, model_lr)

    def _rule_at(self, step: int) -> Rule:
        return self.inner._replace({"lr": self.base_lr(step)})
