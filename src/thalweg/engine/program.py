"""Program: a rule, and how its parameters are kept. Together they choose the code of a step.

The numbers of the rule are no part of it: they reach a step through its coefficients. So tensors with one `key` can
share a kernel whatever their learning rates, and no schedule asks for another one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import precision
from thalweg.engine.precision import Rounding
from thalweg.rules import Rule, row
from thalweg.rules.reductions import Asking
from thalweg.rules.rule import Leaf, like_param, steps

_RESIDUAL: Leaf = like_param(unit="θ", key="residual")


@dataclass(frozen=True)
class Program:
    """What one step does to one tensor, whichever way it is run."""

    rule: Rule
    maximize: bool = False
    rounding: Rounding = "nearest"

    def key(self, shape: torch.Size, dtype: torch.dtype) -> Hashable:
        """What tensors must have in common to be run by the same code."""
        rule = self.rule
        switches = tuple(getattr(rule, name) for name, declared in rule.hypers().items() if declared.is_switch)
        return type(rule), switches, tuple(self.layout(shape)), dtype, self.maximize, self.rounding

    def layout(self, shape: torch.Size) -> dict[str, Leaf]:
        """The tensors remembered for a parameter of this shape: the rule's, and the rounding's."""
        own = {"residual": _RESIDUAL} if self.rounding == "kahan" else {}
        return self.rule.layout(shape) | own

    def init(self, param: Tensor) -> Any:
        """The state before the first step; the rule's part of it in the dtype that the rule computes in."""
        state = self.rule.init(param.detach().to(precision.compute_dtype(param.dtype)))
        if self.rounding == "kahan":
            return row(**state._asdict(), residual=torch.zeros_like(param, requires_grad=False))
        return state

    def coefficients(self, step: int, *, seed: int = 0, position: int = 0) -> Any:
        """Every scalar of step number `step` (from 1) of the parameter at this position of its optimizer."""
        scalars = self.rule.coefficients(step)
        if self.rounding == "stochastic":
            return row(**scalars._asdict(), **precision.keys(seed, position, step))
        return scalars

    def update(self, param: Tensor, grad: Tensor, state: Any, c: Any, index: Tensor | None = None) -> Asking:
        """One step of one tensor: (the new parameter, the new state); asks for reductions on the way.

        `index` numbers the elements of the parameter, for stochastic rounding.
        """
        value = precision.exact(param, state, self.rounding)
        grad = grad.to(value.dtype)
        if self.maximize:
            grad = -grad
        value, state = yield from steps(self.rule.update(value, grad, state, c))
        return precision.rounded(value, param.dtype, state, c, index, self.rounding)

    @property
    def needs_index(self) -> bool:
        """Whether `update` must be told which element is which."""
        return self.rounding == "stochastic"
