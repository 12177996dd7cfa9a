"""Weight decay, in the two forms that rules use.

    coupled     g + λ θ             an L2 penalty: it passes through the rule's averages and scaling
    decoupled   (1 - η λ) θ         a shrinkage beside the step (Loshchilov & Hutter 2019, arXiv:1711.05101)

They are the same thing for plain SGD (up to the factor η) and for no other rule.
"""

from typing import Any

from torch import Tensor

from thalweg.rules.hyper import Range, hyper


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
    )


def coupled(grad: Tensor, param: Tensor, c: Any) -> Tensor:
    """The gradient with the penalty's own gradient added; reads `c.weight_decay`."""
    return grad + param * c.weight_decay


def decoupled(param: Tensor, c: Any) -> Tensor:
    """The parameter, shrunk; reads `c.shrink`, which is 1 - η λ."""
    return param * c.shrink
