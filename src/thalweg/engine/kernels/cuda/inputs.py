"""Inputs: the text that finds the tensors, scalars and results of reductions that a kernel for a GPU reads."""

from collections.abc import Iterable
from typing import NamedTuple

from thalweg.engine.kernels.c_operations import TYPES, assignment
from thalweg.engine.kernels.expressions import column_of, offset
from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import Operation, RecordedReduction, RecordedValue
from thalweg.rules import Max

SIZES = (
    "    const int64_t *size = call.sizes + 4 * t, B = size[0], N = size[1], M = size[2]; (void)B; (void)N; (void)M;"
)
GRAD_FACTOR = "    const float factor = call.grad_factor ? *call.grad_factor : 1; const bool scaled = call.grad_factor;"


class Input(NamedTuple):
    """A value that is loaded.

    Attributes:
        axes: The axes along which it varies.
        value: The value.
        source: The expression that loads it, with the coordinates ``b``, ``n`` and ``m``.
    """

    axes: Axes
    value: RecordedValue
    source: str

    @property
    def text(self) -> str:
        """The declaration of its variable."""
        return f"const {TYPES[self.value.dtype]} v{self.value.place} = {self.source};"


def operator_of(reduction: RecordedReduction) -> str:
    """Return the class in the runtime that joins two numbers of a reduction."""
    return "Largest" if reduction.kind is Max else "Total"


def address(passes: Passes, column: int) -> str:
    """Return the address of tensor ``t`` in a column of the table; gradients come with the call."""
    return "call.grad[t - call.first_tensor]" if column == 1 else f"call.at[{column} * call.count + t]"


def results_of(passes: Passes, reduction: RecordedReduction) -> str:
    """Return the address of the results of a reduction."""
    return f"(double *){address(passes, column_of(passes, reduction))}"


def partials_of(passes: Passes, reduction: RecordedReduction) -> str:
    """Return the address of the partial results of a reduction."""
    return f"(double *){address(passes, column_of(passes, reduction) + 1)}"


def pointer(passes: Passes, column: int, value: RecordedValue) -> str:
    """Return the declaration of the pointer to the tensor of a column."""
    kind = TYPES[value.dtype]
    return f"    {kind} *__restrict__ x{column} = ({kind} *){address(passes, column)}; IN_GLOBAL(x{column});"


def whole_columns(passes: Passes, places: set[int], written: Iterable[int] = ()) -> list[tuple[int, RecordedValue]]:
    """Return the columns of whole tensors that are read, or that are among those written."""
    written = set(written)
    return [
        (k, value)
        for k, value in enumerate(passes.columns)
        if (value.place in places or k in written) and passes.is_whole(value)
    ]


def small_inputs(passes: Passes, places: set[int]) -> tuple[list[str], list[Input]]:
    """Return the inputs at these places that have fewer elements than the parameter: pointers, and values."""
    pointers, inputs = [], []
    for k, value in enumerate(passes.columns):
        if value.place in places and not passes.is_whole(value):
            axes = passes.axes_of(value)
            pointers.append(pointer(passes, k, value))
            inputs.append(Input(axes, value, f"x{k}[{offset(axes)}]"))
    for k, value in enumerate(passes.recording.coefficients.values()):
        if value.place in places:
            inputs.append(Input("", value, f"scalar(call, t, {k})"))
    for reduction in passes.reductions:
        value = reduction.result
        if value.place not in places:
            continue
        axes, dtype = passes.axes_of(value), TYPES[value.dtype]
        if reduction.over_model:
            inputs.append(Input(axes, value, f"({dtype})call.model[{passes.model_reductions.index(reduction)}]"))
        else:
            name = f"results{value.place}"
            pointers.append(f"    const double *{name} = {results_of(passes, reduction)}; IN_GLOBAL({name});")
            inputs.append(Input(axes, value, f"({dtype}){name}[{offset(axes)}]"))
    return pointers, inputs


def by_axes(passes: Passes, inputs: Iterable[Input], operations: Iterable[Operation]) -> dict[Axes, list[str]]:
    """Return the declarations of all variables, by the axes along which they vary."""
    lines: dict[Axes, list[str]] = {}
    for item in inputs:
        lines.setdefault(item.axes, []).append(item.text)
    for operation in operations:
        lines.setdefault(passes.axes_of(operation.result), []).append(assignment(operation))
    return lines
