"""The scalars of a population's steps: computed ahead on the host, for all members at once, and kept on the device.

To call `coefficients` for each member in each step would take the host longer than the steps take a GPU. So it is
called once, on stand-ins, and the expressions are computed on vectors of members and steps. Vectors are added,
multiplied and divided as Python's floats are; the other functions are Python's own, so that no bit differs.
"""

import itertools
import math
import operator
from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.graphs import upload
from thalweg.engine.scalars.expressions import UntraceableError, trace
from thalweg.engine.scalars.program import TensorEvaluator, number_settings
from thalweg.rules import Rule, record

MAX_LOADED = 64  # steps whose scalars are uploaded at once

RuleAt = Callable[[Rule, Any], Rule]


class ComputedScalars(NamedTuple):
    """The scalars of several steps.

    Attributes:
        rows: All scalars in float64, of shape ``(steps, members, fields)``.
        recurrent_scalars: The recurrent scalars of each member after the last step.
    """

    rows: Tensor
    recurrent_scalars: list[tuple[float, ...]]


class ScalarSchedule:
    """Computes the scalars of steps whose rules follow a schedule.

    Args:
        program: The program of all members.
        rule: The rule of a member before the schedule. Its numbers do not matter.
        rule_at: Returns the rule of a step, given the rule before the schedule and the number of the step's schedule.

    Attributes:
        record: The type of a record of scalars.
    """

    def __init__(self, program: Program, rule: Rule, rule_at: RuleAt) -> None:
        self._settings = number_settings(rule)
        self._static = _static_settings(rule)
        self._recurrent = list(program.rule.traits.recurrent_scalars)
        self._evaluator: TensorEvaluator | None = None

        def scalars_of(**inputs: Any) -> dict[str, Any]:
            changed = rule_at(
                rule.with_(**{name: inputs["setting " + name] for name in self._settings}), inputs["factor"]
            )
            previous = tuple(inputs["recurrent " + name] for name in self._recurrent)
            scalars: dict[str, Any] = Program(changed).coefficients(inputs["step"], previous=previous)._asdict()
            return scalars

        names = ["step", "factor", *("setting " + name for name in self._settings)]
        try:
            if program.needs_keys:
                raise UntraceableError("random numbers are drawn")
            expressions = trace(scalars_of, [*names, *("recurrent " + name for name in self._recurrent)])
        except UntraceableError:
            return
        self.record = type(record(**dict.fromkeys(expressions.results, 0.0)))
        self._positions = [list(expressions.results).index(name) for name in self._recurrent]
        self._evaluator = TensorEvaluator(expressions, torch.device("cpu"), _PYTHON_FUNCTIONS)

    def rows(
        self,
        rules: Sequence[Rule],
        factors: Sequence[float],
        first: int,
        recurrent_scalars: Sequence[tuple[float, ...]],
    ) -> ComputedScalars | None:
        """Return the scalars of several steps; None if they must be computed one by one.

        Args:
            rules: The rule of each member, before the schedule.
            factors: The number of the schedule in each step.
            first: The number of the first step, from 1.
            recurrent_scalars: The recurrent scalars of each member before the first step.
        """
        if self._evaluator is None or any(_static_settings(rule) != self._static for rule in rules):
            return None
        members = [rule.settings() for rule in rules]
        inputs = {"setting " + name: _row([settings[name] for settings in members]) for name in self._settings}
        previous = [_row(values) for values in zip(*recurrent_scalars, strict=True)]
        counts = range(first, first + len(factors))
        # A recurrent scalar follows from the step before, so such steps are computed one after the other.
        size = 1 if self._recurrent else len(factors)
        rows = []
        for start in range(0, len(factors), size):
            inputs["factor"], inputs["step"] = (_column(part[start : start + size]) for part in (factors, counts))
            inputs |= {"recurrent " + name: row for name, row in zip(self._recurrent, previous, strict=True)}
            results = self._evaluator(inputs)
            columns = [column.expand(min(size, len(factors)), len(rules)) for column in results.values()]
            previous = [columns[position] for position in self._positions]
            rows.append(torch.stack(columns, -1))
        joined = torch.cat(rows)
        if not joined.isfinite().all():
            return None  # `coefficients` raises an error, which tells the member
        after: list[tuple[float, ...]] = [()] * len(rules)
        if previous:
            after = list(zip(*(row[0].tolist() for row in previous), strict=True))
        return ComputedScalars(joined, after)


_SCHEDULES: dict[Hashable, ScalarSchedule] = {}
_MAX_SCHEDULES = 64  # some rules take a fifth of a second to be written down


def schedule_for(program: Program, rule: Rule, rule_at: RuleAt) -> ScalarSchedule:
    """Return the schedule of these arguments. Populations whose rules differ in numbers alone share it."""
    key = (program.rule.code_key, rule.code_key, repr(_static_settings(rule)), rule_at)
    if key not in _SCHEDULES:
        if len(_SCHEDULES) >= _MAX_SCHEDULES:
            _SCHEDULES.clear()
        _SCHEDULES[key] = ScalarSchedule(program, rule, rule_at)
    return _SCHEDULES[key]


def _static_settings(rule: Rule) -> dict[str, Any]:
    numbers = number_settings(rule)
    return {name: value for name, value in rule.settings().items() if name not in numbers}


def _row(values: Sequence[float]) -> Tensor:
    """Return numbers of members as a row; as one number if they are equal, which takes less time."""
    numbers = values[:1] if len(set(values)) == 1 else values
    return torch.tensor([numbers], dtype=torch.float64, device="cpu")


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu").unsqueeze(1)


def _by_python(function: Callable[..., float]) -> Callable[..., Tensor]:
    """Return a function of tensors that calls a function of floats for each element, NaN where that has no value."""

    def value(*numbers: float) -> float:
        try:
            result = function(*numbers)
        except (ArithmeticError, ValueError):
            return math.nan  # perhaps on a side of a condition that is not taken
        return math.nan if isinstance(result, complex) else result

    def apply(*operands: Tensor) -> Tensor:
        aligned = torch.broadcast_tensors(*operands)  # type: ignore[no-untyped-call]
        values = itertools.starmap(value, zip(*(tensor.flatten().tolist() for tensor in aligned), strict=True))
        return torch.tensor(list(values), dtype=torch.float64, device="cpu").view(aligned[0].shape)

    return apply


# The other operations are rounded correctly by torch and by Python.
_PYTHON_FUNCTIONS = {
    "**": _by_python(operator.pow),
    "%": _by_python(operator.mod),
    "sqrt": _by_python(math.sqrt),
    "exp": _by_python(math.exp),
    "log": _by_python(math.log),
    "cos": _by_python(math.cos),
}


class ScalarTable:
    """The scalars of the next steps of all members, on the device. A counter there selects those of a step.

    Args:
        device: The device of the members.
        dtype: Their compute dtype, to which the scalars are rounded once.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._record: Any = None
        self._table: Tensor | None = None

    def load_records(self, steps: Sequence[Sequence[Sequence[Any]]]) -> None:
        """Replace the table by records of scalars, by step, position and member; ``MAX_LOADED`` steps at most."""
        record = steps[0][0][0]
        shape = (len(steps), len(steps[0]), len(steps[0][0]), len(record))
        records = itertools.chain.from_iterable(itertools.chain.from_iterable(steps))
        numbers = array("d", itertools.chain.from_iterable(records))
        rows = torch.frombuffer(numbers, dtype=torch.float64) if numbers else torch.empty(0, device="cpu")
        self.load(type(record), rows.view(shape))

    def load(self, record: Any, rows: Tensor) -> None:
        """Replace the table.

        Args:
            record: The type of a record of scalars.
            rows: The scalars in float64 on the host, of shape ``(steps, positions, members, fields)``; ``MAX_LOADED``
                steps at most.
        """
        assert 0 < len(rows) <= MAX_LOADED
        self._record = record
        if self._table is None:
            # Its address stays, as graphs need it.
            self._table = torch.zeros(MAX_LOADED, *rows.shape[1:], device=self._device, dtype=self._dtype)
            self._next = torch.zeros(1, device=self._device, dtype=torch.int64)
        upload(self._table[: len(rows)], rows.to(self._dtype))
        self._next.zero_()

    def take(self) -> list[Any]:
        """Return the scalars of the next step: for each position a record of tensors of shape ``(members,)``."""
        assert self._table is not None, "scalars must be loaded"
        (row,) = self._table.index_select(0, self._next)
        self._next.add_(1)
        return [self._record(*position.unbind(1)) for position in row]
