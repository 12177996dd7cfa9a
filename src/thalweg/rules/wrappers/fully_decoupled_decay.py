"""FullyDecoupledDecay: weight decay that follows the learning rate schedule but not the size of the learning rate.

    θ_t = (1 - λ η_t / η_0) θ_{t-1} - step_t        step_t by the inner rule; η_0 is the `reference_lr`

Use: tuning λ and the learning rate one after the other: if η and η_0 change together, the decay stays the same. If η
alone changes, the decay changes with it, as in DecoupledDecay.
Avoid: a λ taken from AdamW: multiply it by AdamW's learning rate first (0.1 at η = 10⁻³ is 10⁻⁴ here).
Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2; its schedule multiplier is η_t / η_0.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.compatibility import lr_is_a_factor
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Range, Scalar, hyper


@dataclass(frozen=True, kw_only=True)
class FullyDecoupledDecay(Wrapper):
    """Weight decay that follows the learning rate schedule but not the size of the learning rate."""

    weight_decay: Scalar = hyper(
        0.0,
        "[0, 1]",
        symbol="λ",
        unit="1",
        search=Range(1e-6, 1e-2, "log"),
        moves_optimum=True,
        doc="share by which a step with η = η_0 shrinks the parameter",
        place="fully decoupled",
    )
    reference_lr: Scalar = hyper(1e-3, "> 0", symbol="η_0", unit="θ", doc="highest learning rate of the schedule")

    replaced_settings = frozenset({"weight_decay"})
    effects = frozenset({"moves parameters", "decays by lr"})

    def check_consistency(self) -> None:
        lr = self.inner.settings().get("lr", 0.0)
        if lr_is_a_factor(self.inner) and lr > self.reference_lr:
            raise SettingError(
                f"{type(self).__name__}: the inner rule must have an lr of at most reference_lr, got {self.inner.name} "
                f"with lr={lr!r} and reference_lr={self.reference_lr!r}. Pass reference_lr={lr!r}."
            )

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"left": 1 - self.weight_decay * self.base_lr(step) / self.reference_lr}

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return self.inner.apply(c.left * param, direction, state, c)
