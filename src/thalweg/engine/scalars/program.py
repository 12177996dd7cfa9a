"""The scalars of a step as expressions of settings, step counts and recurrent scalars, computed where these lie.

A row holds the coefficients of a parameter in the order of `Program.coefficients`. On a device the rows of all
parameters are computed at once: by tensor operations here, or by a kernel (`kernels.cuda.scalars`).
"""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.scalars.expressions import Expressions, trace
from thalweg.rules import Rule, record
from thalweg.rules.math.roots import root

STEP = "step"  # the input of a program that is the number of the step
MODEL_LR = "model_lr"  # the input that is the highest learning rate of all groups
KEYS = ("key_low", "key_high")


def number_settings(rule: Rule) -> list[str]:
    """Return the names of the settings of a rule that are numbers and may change from step to step."""
    return [name for name, declared in rule.hypers().items() if not declared.is_static]


class ScalarProgram:
    """The expressions of all scalars that a rule needs in a step.

    Args:
        rule: The rule. Its numbers do not matter.

    Attributes:
        settings: The names of its settings that are numbers.
        recurrent: The names of its recurrent scalars.

    Raises:
        UntraceableError: If they cannot be written down.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.settings = number_settings(rule)
        self.recurrent = list(rule.traits.recurrent_scalars)
        self.coefficients  # noqa: B018  (so that it fails here)

    def _trace(self, function: Callable[[Rule, Any, Any, Any], Mapping[str, Any]]) -> Expressions:
        """Write down a function of the rule, the step, the recurrent scalars and the model's learning rate."""

        def of_inputs(**inputs: Any) -> Mapping[str, Any]:
            rule = self._rule.with_(**{name: inputs["setting " + name] for name in self.settings})
            previous = record(**{name: inputs["recurrent " + name] for name in self.recurrent})
            return function(rule, inputs[STEP], previous, inputs[MODEL_LR])

        names = [STEP, MODEL_LR, *("setting " + name for name in self.settings)]
        return trace(of_inputs, [*names, *("recurrent " + name for name in self.recurrent)])

    @cached_property
    def coefficients(self) -> Expressions:
        """The coefficients of a step, by name, in the order of a row."""

        def function(rule: Rule, step: Any, previous: Any, model_lr: Any) -> Mapping[str, Any]:
            scalars = rule.coefficients(step)._asdict()
            if self.recurrent:
                scalars |= rule.next_recurrent_scalars(step, previous)
            if rule.traits.uses_model_lr:
                scalars |= rule.model_coefficients(step, model_lr)
            return scalars

        return self._trace(function)

    @cached_property
    def missed(self) -> Expressions:
        """The recurrent scalars after a step without a gradient; those that change."""
        return self._trace(lambda rule, step, previous, model_lr: rule.missed_recurrent_scalars(previous))

    @cached_property
    def base_lr(self) -> Expressions:
        """The learning rate before the formula changes it, under the name ``lr``."""
        return self._trace(lambda rule, step, previous, model_lr: {"lr": rule.base_lr(step)})


_PROGRAMS: dict[Hashable, ScalarProgram] = {}


def scalar_program(program: Program) -> ScalarProgram:
    """Return the scalars of a program. Programs whose rules have the same code share them.

    Raises:
        UntraceableError: If they cannot be written down.
    """
    rule = program.rule
    key = (rule.code_key, tuple(number_settings(rule)), tuple(rule.traits.recurrent_scalars))
    if key not in _PROGRAMS:
        _PROGRAMS[key] = ScalarProgram(rule)
    return _PROGRAMS[key]


def row_names(program: Program) -> list[str]:
    """Return the names of the coefficients in a row."""
    return [*scalar_program(program).coefficients.results, *(KEYS if program.needs_keys else ())]


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.div,
    "%": torch.remainder,
    "**": torch.pow,
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
    "==": torch.eq,
    "!=": torch.ne,
    "choose": torch.where,
    "sqrt": root,
}


class TensorEvaluator:
    """Computes expressions by tensor operations.

    Args:
        expressions: The expressions.
        device: The device of all inputs.
        functions: Functions of tensors that replace those of torch, by operation.
    """

    def __init__(
        self,
        expressions: Expressions,
        device: torch.device,
        functions: Mapping[str, Callable[..., Tensor]] | None = None,
    ) -> None:
        self._expressions = expressions
        self._functions = _FUNCTIONS | dict(functions or {})
        # Made once. A number of Python would be another operation on CUDA: x / c is x times 1 / c there.
        self._constants = {
            number: torch.tensor(float.fromhex(node.operands[0]), dtype=torch.float64, device=device)
            for number, node in enumerate(expressions.nodes)
            if node.operation == "constant"
        }

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the results by name, in float64.

        Args:
            inputs: Tensors in float64, whose shapes are broadcast.
        """
        values: list[Tensor] = []
        for number, (operation, operands) in enumerate(self._expressions.nodes):
            if operation == "constant":
                values.append(self._constants[number])
            elif operation == "input":
                values.append(inputs[operands[0]])
            else:
                function = self._functions.get(operation) or getattr(torch, operation)
                values.append(function(*(values[operand] for operand in operands)))
        return {name: values[number] for name, number in self._expressions.results.items()}


class ScalarInputs(NamedTuple):
    """The inputs of a program, each in float64 and of a shape that broadcasts over the parameters.

    Attributes:
        step: The number of the step of each parameter.
        settings: The settings by name.
        recurrent: The recurrent scalars after the last step by name.
        model_lr: The highest learning rate of all groups, for rules that depend on it.
    """

    step: Tensor
    settings: Mapping[str, Tensor]
    recurrent: Mapping[str, Tensor]
    model_lr: Tensor | None = None

    def by_name(self) -> dict[str, Tensor]:
        """Return the inputs by the names of the expressions."""
        named = {STEP: self.step, MODEL_LR: self.step if self.model_lr is None else self.model_lr}
        named |= {"setting " + name: value for name, value in self.settings.items()}
        return named | {"recurrent " + name: value for name, value in self.recurrent.items()}
