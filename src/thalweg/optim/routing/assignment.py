"""Assignment: the rule of one parameter of a routed model."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.optim.routing.role import Role
from thalweg.rules import Rule


@dataclass(frozen=True)
class GroupOverrides:
    """The changes that make the rule of some parameters from the rule of the whole model.

    Attributes:
        settings: Settings of the rule: which of its parts the parameters follow, and how they hold their matrices.
        lr_scale: Factor of the learning rate, >= 0.
        decay_scale: Factor of the weight decay, >= 0.
    """

    settings: tuple[tuple[str, Any], ...] = ()
    lr_scale: float = 1.0
    decay_scale: float = 1.0

    def apply_to(self, whole: Rule) -> Rule:
        """Return the rule of these parameters."""
        if self == NO_OVERRIDES:
            return whole
        scales = {"lr": self.lr_scale, "weight_decay": self.decay_scale}
        scales = {name: scale for name, scale in scales.items() if scale != 1 and name in whole.hypers()}
        settings = whole.settings() if scales else {}
        return whole.with_(**dict(self.settings), **{name: settings[name] * scale for name, scale in scales.items()})


NO_OVERRIDES = GroupOverrides()  # all parameters follow the rule of the whole model as it is


@dataclass(frozen=True, eq=False)
class Assignment:
    """The rule of one parameter, and the reason.

    Attributes:
        name: The name of the parameter in the model.
        param: The parameter.
        role: Its role, or None if it is ambiguous.
        rule: The name of its rule.
        why: The evidence for the role, or the possible answers.
        overrides: The changes that make its rule from the rule of the whole model.
        frozen: True if it required no gradient when the model was routed. It takes steps as soon as it has a gradient.
    """

    name: str
    param: Tensor
    role: Role | None
    rule: str
    why: str
    overrides: GroupOverrides
    frozen: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        return tuple(self.param.shape)
