"""Expressions: what the printers of kernels for the CPU and for a GPU write alike."""

from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import RecordedReduction, RecordedValue
from thalweg.rules import Mean, Norm


def variable(value: RecordedValue) -> str:
    """Return the variable of a value."""
    return f"v{value.place}"


def column_of(passes: Passes, reduction: RecordedReduction) -> int:
    """Return the column of ``at`` for the results of a reduction; the next column is for the partial results."""
    return 2 + len(passes.recording.state) + 2 * passes.reductions.index(reduction)


def offset(axes: Axes) -> str:
    """Return the offset of an element in a tensor that varies along these axes alone.

    Example:
        >>> offset("bm"), offset("")
        ('(b) * M + m', '0')
    """
    text = ""
    for axis in axes:
        text = f"({text}) * {axis.upper()} + {axis}" if text else axis
    return text or "0"


def term(reduction: RecordedReduction) -> str:
    """Return the number that an element of the operand adds to a reduction, in double precision."""
    value = f"(double){variable(reduction.operand)}"
    return f"{value} * {value}" if reduction.kind is Norm else value


def result_of(passes: Passes, total: str, reduction: RecordedReduction) -> str:
    """Return the result of a reduction over a tensor, from the total of its operand; ``size[3]`` counts elements."""
    if reduction.kind not in (Mean, Norm) or reduction.over_model:  # those over the model are completed for all tensors
        return total
    if reduction.kind is Norm:
        return f"sqrt({total})"
    axes, result_axes = passes.axes_of(reduction.operand), passes.axes_of(reduction.result)
    if axes == passes.axes and not result_axes:
        return f"{total} / size[3]"
    return f"{total} / ({' * '.join(axis.upper() for axis in axes if axis not in result_axes) or '1'})"
