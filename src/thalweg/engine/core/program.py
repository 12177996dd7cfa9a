"""Program: a rule with its precision. Together they choose the code of a step.

The numbers of the rule are no part of the code: they reach a step through its coefficients. So tensors with one `key`
share a kernel whatever their learning rates are, and no schedule needs another kernel.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.precision import Rounding
from thalweg.errors import SettingError
from thalweg.rules import Rule, record
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor, like_param
from thalweg.rules.math import hashing

_RESIDUAL: StateTensor = like_param(unit="θ", key="residual")


@dataclass(frozen=True)
class Program:
    """The computation of one step of one tensor; every backend runs it.

    Attributes:
        rule: The rule at its settings.
        maximize: True if steps go up the gradient.
        rounding: The rounding of the new parameter.
    """

    rule: Rule
    maximize: bool = False
    rounding: Rounding = "nearest"

    def key(self, shape: torch.Size, dtype: torch.dtype) -> Hashable:
        """Return a key that is equal for parameters that the same code can step.

        Args:
            shape: The shape of the parameter.
            dtype: The dtype of the parameter.
        """
        # A rule that looks at whole tensors may treat matrices and vectors differently.
        num_dims = 1 if self.rule.traits.scope == "elementwise" else max(1, len(shape))
        return self.rule.code_key, tuple(self.layout(shape)), num_dims, dtype, self.maximize, self.rounding

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        """Return the state tensors of a parameter of this shape: the rule's, and that of Kahan's rounding."""
        residual = {"residual": _RESIDUAL} if self.rounding == "kahan" else {}
        return self.rule.layout(shape) | residual

    def init(self, param: Tensor) -> Any:
        """Return the state before the first step. The rule's part of it is in the compute dtype."""
        state = self.rule.init(param.detach().to(precision.compute_dtype(param.dtype)))
        if self.rounding == "kahan":
            return record(**state._asdict(), residual=torch.zeros_like(param, requires_grad=False))
        return state

    def initial_recurrent_scalars(self) -> tuple[float, ...]:
        """Return the recurrent scalars before the first step."""
        return tuple(self.rule.traits.recurrent_scalars.values())

    def recurrent_scalars_of(self, coefficients: Any) -> tuple[float, ...]:
        """Return the recurrent scalars after a step with these coefficients."""
        return tuple(getattr(coefficients, name) for name in self.rule.traits.recurrent_scalars)

    def coefficients(
        self,
        step: int,
        *,
        previous: tuple[float, ...] | None = None,
        seed: int = 0,
        position: int = 0,
        model_lr: float | None = None,
    ) -> Any:
        """Return every scalar of a step of one parameter, as a record.

        Args:
            step: The number of the step, from 1.
            previous: The recurrent scalars of the step before. Defaults to those before the first step.
            seed: The seed of the optimizer's random numbers.
            position: The position of the parameter in its optimizer.
            model_lr: The highest learning rate of all groups. Defaults to that of the rule.

        Raises:
            SettingError: If a scalar is too large for a float.
        """
        more: dict[str, Any] = {}
        try:
            scalars = self.rule.coefficients(step)
            if self.rule.traits.recurrent_scalars:
                values = previous or self.initial_recurrent_scalars()
                pairs = zip(self.rule.traits.recurrent_scalars, values, strict=True)
                more = self.rule.next_recurrent_scalars(step, record(**dict(pairs)))
            if self.rule.traits.uses_model_lr:
                more |= self.rule.model_coefficients(step, self.rule.base_lr(step) if model_lr is None else model_lr)
        except ArithmeticError as error:
            raise SettingError(
                f"{self.rule.name}: the settings must give scalars that a float can hold, got {error} at step {step}. "
                "Use settings nearer to the defaults."
            ) from None
        if self.needs_keys:
            more |= hashing.step_keys(seed, position, step)
        return record(**scalars._asdict(), **more) if more else scalars

    def update(self, param: Tensor, grad: Tensor, state: Any, c: Any, index: Tensor | None = None) -> RequestGenerator:
        """Take one step of one tensor, yielding requests for reductions.

        Args:
            param: The parameter.
            grad: Its gradient.
            state: Its state.
            c: The coefficients of the step.
            index: The number of each element, for stochastic rounding.

        Returns:
            The new parameter and the new state.
        """
        value = precision.to_compute_dtype(param, state, self.rounding)
        value, state = yield from resolve_reductions(
            self.rule.update(value, self.descent_gradient(grad, value.dtype), state, c)
        )
        return precision.round_parameter(value, param.dtype, state, c, index, self.rounding)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        """Compute the first half of ``update``, for rules that try several step lengths: direction and new state."""
        value = precision.to_compute_dtype(param, state, self.rounding)
        return (
            yield from resolve_reductions(
                self.rule.direction(value, self.descent_gradient(grad, value.dtype), state, c)
            )
        )

    def apply(
        self, param: Tensor, direction: Tensor, state: Any, c: Any, index: Tensor | None = None
    ) -> RequestGenerator:
        """Compute the second half of ``update``: new parameter and new state."""
        value = precision.to_compute_dtype(param, state, self.rounding)
        value, state = yield from resolve_reductions(self.rule.apply(value, direction, state, c))
        return precision.round_parameter(value, param.dtype, state, c, index, self.rounding)

    def descent_gradient(self, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a gradient as the rule sees it: in the compute dtype, negated if the loss is maximized."""
        grad = grad.to(dtype)
        return -grad if self.maximize else grad

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> RequestGenerator:
        """Compute the parameter at which a second gradient is taken, for rules that need one."""
        value = param.to(precision.compute_dtype(param.dtype))
        perturbed = yield from resolve_reductions(self.rule.perturb(value, self.descent_gradient(grad, value.dtype), c))
        return perturbed.to(param.dtype)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        """Return the parameter at which the model is evaluated; ``c`` are the coefficients of the last step."""
        return self.rule.evaluation_point(precision.to_compute_dtype(param, state, self.rounding), state, c).to(
            param.dtype
        )

    @property
    def needs_index(self) -> bool:
        """True if ``update`` needs the number of each element."""
        return self.rounding == "stochastic"

    @property
    def needs_keys(self) -> bool:
        """True if the coefficients of every parameter hold keys of its random numbers."""
        return self.needs_index or self.rule.traits.uses_random_numbers
