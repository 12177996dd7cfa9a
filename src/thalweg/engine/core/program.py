"""Program: a rule, and how its parameters are kept. Together they choose the code of a step.

The numbers of the rule are no part of it: they reach a step through its coefficients. So tensors with one `key` can
share a kernel whatever their learning rates, and no schedule asks for another one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.precision import Rounding
from thalweg.rules import Rule, record
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor, like_param
from thalweg.rules.math import hashing

_RESIDUAL: StateTensor = like_param(unit="θ", key="residual")


@dataclass(frozen=True)
class Program:
    """What one step does to one tensor, whichever way it is run."""

    rule: Rule
    maximize: bool = False
    rounding: Rounding = "nearest"

    def key(self, shape: torch.Size, dtype: torch.dtype) -> Hashable:
        """What tensors must have in common to be run by the same code."""
        # What looks at whole tensors may tell matrices from vectors.
        num_dims = 1 if self.rule.traits.scope == "elementwise" else max(1, len(shape))
        return self.rule.code_key, tuple(self.layout(shape)), num_dims, dtype, self.maximize, self.rounding

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        """The tensors remembered for a parameter of this shape: the rule's, and the rounding's."""
        own = {"residual": _RESIDUAL} if self.rounding == "kahan" else {}
        return self.rule.layout(shape) | own

    def init(self, param: Tensor) -> Any:
        """The state before the first step; the rule's part of it in the dtype that the rule computes in."""
        state = self.rule.init(param.detach().to(precision.compute_dtype(param.dtype)))
        if self.rounding == "kahan":
            return record(**state._asdict(), residual=torch.zeros_like(param, requires_grad=False))
        return state

    def initial_recurrent_scalars(self) -> tuple[float, ...]:
        """The scalars that are carried from step to step, before the first one."""
        return tuple(self.rule.traits.recurrent_scalars.values())

    def recurrent_scalars_of(self, coefficients: Any) -> tuple[float, ...]:
        """The scalars to carry on after a step with these coefficients."""
        return tuple(getattr(coefficients, name) for name in self.rule.traits.recurrent_scalars)

    def coefficients(
        self, step: int, *, before: tuple[float, ...] | None = None, seed: int = 0, position: int = 0
    ) -> Any:
        """Every scalar of step number `step` (from 1) of the parameter at this position of its optimizer.

        `before` are the scalars carried on from the step before.
        """
        scalars, more = self.rule.coefficients(step), {}
        if self.rule.traits.recurrent_scalars:
            carried = zip(self.rule.traits.recurrent_scalars, before or self.initial_recurrent_scalars(), strict=True)
            more = self.rule.next_recurrent_scalars(step, record(**dict(carried)))
        if self.needs_keys:
            more |= hashing.step_keys(seed, position, step)
        return record(**scalars._asdict(), **more) if more else scalars

    def update(
        self, param: Tensor, grad: Tensor, state: Any, c: Any, index: Tensor | None = None
    ) -> ReductionGenerator:
        """One step of one tensor: (the new parameter, the new state); asks for reductions on the way.

        `index` numbers the elements of the parameter, for stochastic rounding.
        """
        value = precision.to_compute_dtype(param, state, self.rounding)
        value, state = yield from resolve_reductions(self.rule.update(value, self.seen(grad, value.dtype), state, c))
        return precision.round_parameter(value, param.dtype, state, c, index, self.rounding)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        """The first half of `update`, for rules that try several lengths of a step: (the direction, the new state)."""
        value = precision.to_compute_dtype(param, state, self.rounding)
        return (yield from resolve_reductions(self.rule.direction(value, self.seen(grad, value.dtype), state, c)))

    def apply(
        self, param: Tensor, direction: Tensor, state: Any, c: Any, index: Tensor | None = None
    ) -> ReductionGenerator:
        """The second half of `update`: (the new parameter, the new state)."""
        value = precision.to_compute_dtype(param, state, self.rounding)
        value, state = yield from resolve_reductions(self.rule.apply(value, direction, state, c))
        return precision.round_parameter(value, param.dtype, state, c, index, self.rounding)

    def seen(self, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """A gradient as the rule sees it: of the dtype it computes in, and downhill."""
        grad = grad.to(dtype)
        return -grad if self.maximize else grad

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> ReductionGenerator:
        """Where the second gradient of a step is to be taken, for rules that need one; asks for reductions."""
        value = param.to(precision.compute_dtype(param.dtype))
        there = yield from resolve_reductions(self.rule.perturb(value, self.seen(grad, value.dtype), c))
        return there.to(param.dtype)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        """Where the model is to be used, for rules that say so; `c` is that of the last step."""
        return self.rule.evaluation_point(precision.to_compute_dtype(param, state, self.rounding), state, c).to(
            param.dtype
        )

    @property
    def needs_index(self) -> bool:
        """Whether `update` must be told which element is which."""
        return self.rounding == "stochastic"

    @property
    def needs_keys(self) -> bool:
        """Whether every parameter has scalars of its own, from which random numbers are made."""
        return self.needs_index or self.rule.traits.uses_random_numbers
