"""Weight decay, in the forms that rules use.

    coupled           g + λ θ             an L2 penalty: it passes through the rule's averages and scaling
    decoupled         (1 - η λ) θ         a shrinkage beside the step (Loshchilov & Hutter 2019, arXiv:1711.05101)
    fully decoupled   (1 - λ) θ           the same, independent of the learning rate

For plain SGD they are the same up to the factor η, and for no other rule. A decoupled decay may also be a part of the
step that the rule proposes (`IN_STEP`). Then all that changes the step, such as a mask, changes the decay too.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, hyper
from thalweg.rules.core.rule import Rule, StepResult

# The places of a decoupled decay.
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
    """Declare the λ of decoupled decay: a field of a rule's dataclass. `coefficients` must return `shrink=1 - η λ`.

    If λ has another effect, `doc` describes it and `place` names its place in the formula.
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
    """Return the factor of a parameter in decoupled decay: 1 - η λ."""
    return 1 - rule.lr * rule.weight_decay


def coupled(grad: Tensor, param: Tensor, c: Any) -> Tensor:
    """Return the gradient plus that of the penalty; reads `c.weight_decay`."""
    return grad + param * c.weight_decay


def decoupled(param: Tensor, c: Any) -> Tensor:
    """Return the parameter after decoupled decay; reads `c.shrink`, which is 1 - η λ."""
    return param * c.shrink


@dataclass(frozen=True, kw_only=True)
class Decoupled(Rule):
    """A rule with decoupled decay: its coefficients include `shrink`. Abstract."""

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> StepResult:
        return decoupled(param, c) - c.lr * direction, state
