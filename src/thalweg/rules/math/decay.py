"""Weight decay, in the forms that rules use.

    coupled           g + λ θ             an L2 penalty: it passes through the rule's averages and scaling
    decoupled         (1 - η λ) θ         a shrinkage beside the step (Loshchilov & Hutter 2019, arXiv:1711.05101)
    fully decoupled   (1 - λ) θ           the same, whatever the learning rate

A decoupled one may also be a part of the step that the rule proposes, and share what becomes of that: `IN_STEP`.

They are the same thing for plain SGD (up to the factor η) and for no other rule.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, hyper
from thalweg.rules.core.rule import Rule

# Where a decoupled decay may enter.
BESIDE_STEP = "decoupled"
IN_STEP = "decoupled, in the step"


def l2_penalty() -> Any:
    """Declare the λ of coupled decay: a field of a rule's dataclass."""
    return hyper(
        0.0,
        ">= 0",
        symbol="λ",
        unit="g/θ",
        search=Range(1e-6, 1e-1, "log"),
        moves_optimum=True,
        doc="L2 penalty, added to the gradient",
        place="coupled",
    )


def shrinkage(
    default: float = 0.0, *, doc: str = "shrinks the parameter by ηλ a step", place: str = BESIDE_STEP
) -> Any:
    """Declare the λ of decoupled decay: a field of a rule's dataclass. `coefficients` give `shrink=1 - η λ`.

    Where that is not what λ does, `doc` says what is, and `place` where.
    """
    return hyper(
        default,
        ">= 0",
        symbol="λ",
        unit="1/θ",
        search=Range(1e-4, 1.0, "log"),
        moves_optimum=True,
        doc=doc,
        place=place,
    )


def shrink(rule: Any) -> Any:
    """What decoupled decay leaves of a parameter at a step: 1 - η λ."""
    return 1 - rule.lr * rule.weight_decay


def coupled(grad: Tensor, param: Tensor, c: Any) -> Tensor:
    """The gradient with the penalty's own gradient added; reads `c.weight_decay`."""
    return grad + param * c.weight_decay


def decoupled(param: Tensor, c: Any) -> Tensor:
    """The parameter, shrunk; reads `c.shrink`, which is 1 - η λ."""
    return param * c.shrink


@dataclass(frozen=True, kw_only=True)
class Decoupled(Rule):
    """A rule with decoupled decay: its coefficients give `shrink`. Abstract."""

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return decoupled(param, c) - c.lr * direction, state
