"""C source: the passes of a recording printed as C functions that step many tensors in one call.

A kernel equals the loop to the last bit. It sums in double precision and rounds once, as the loop does, so the order of
the terms does not show. The order does not depend on the number of threads either.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from thalweg.engine.core import memory_probe
from thalweg.engine.kernels.c_operations import TYPES, assignment
from thalweg.engine.kernels.c_runtime import DRIVER, PRELUDE
from thalweg.engine.kernels.expressions import column_of, offset, result_of, term, variable
from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import Operation, RecordedReduction, RecordedValue, UnknownOperationError
from thalweg.rules import Max, Mean, Norm


def c_source(passes: Passes) -> str:
    """Print passes as a C translation unit.

    Its public functions are ``step``, whose arguments ``kernel.Kernel`` describes, ``probe`` and ``prefetch``.
    The columns of ``at`` are the parameters, the gradients, the state in the order of the layout, and then, for each
    reduction, memory for its results and for the partial results of the blocks. Parameters and state are written in
    place.

    Args:
        passes: The passes of a recording.

    Returns:
        The C text.

    Raises:
        UnknownOperationError: If C cannot compute the recording with the rounding of PyTorch.
    """
    if any(value.dtype == torch.bool for value in passes.columns):  # one byte in memory, but four in the kernel
        raise UnknownOperationError("booleans in the state")
    printers = [_PassPrinter(passes, number) for number in range(passes.last + 1)]
    blocks, ends = [printer.block() for printer in printers], [printer.end() for printer in printers]
    return "\n".join(
        [
            PRELUDE,
            *(text for text in (*blocks, *ends) if text),
            _function_table("block", blocks),
            _function_table("end", ends),
            _gather_function(passes),
            f"#define ROWS {passes.rows_in_block}",
            DRIVER,
            memory_probe.C_SOURCE,
        ]
    )


def _function_table(name: str, texts: Sequence[str]) -> str:
    """Return a table of the functions of all passes; 0 for a pass without this function."""
    functions = ", ".join(f"{name}{k}" if text else "0" for k, text in enumerate(texts))
    return f"static {name}_of *const {name}s[] = {{{functions}}};"


def _gather_function(passes: Passes) -> str:
    """Return the function that combines the results of all tensors of a call for reductions over the model."""
    lines = ["static void gather(int64_t pass, int64_t count, void *const *at, double *model) {"]
    for k, reduction in enumerate(passes.model_reductions):
        column = column_of(passes, reduction)
        lines += [
            f"    if (pass == {passes.pass_of(reduction)}) {{",
            f"        double total = *(const double *)at[{column} * count];",
            "        for (int64_t t = 1; t < count; t++) {",
            f"            const double value = *(const double *)at[{column} * count + t];",
            f"            {_accumulate('total', 'value', reduction)}",
            "        }",
            f"        model[{k}] = total;",
            "    }",
        ]
    return "\n".join([*lines, "}"])


def _accumulate(target: str, value: str, reduction: RecordedReduction) -> str:
    if reduction.kind is Max:
        return f"{target} = {value} > {target} || {value} != {value} ? {value} : {target};"
    return f"{target} += {value};"


def _identity(reduction: RecordedReduction) -> str:
    """Return the identity element of a reduction."""
    return "-INFINITY" if reduction.kind is Max else "0"


_SIZES = "    const int64_t B = size[0], N = size[1], M = size[2]; (void)B; (void)N; (void)M;"


class _Accumulator(NamedTuple):
    """The lines of a block's loops that reduce a value, by the place where they are printed."""

    before_block: Sequence[str] = ()
    before_row: Sequence[str] = ()
    per_element: Sequence[str] = ()
    after_row: Sequence[str] = ()
    after_block: Sequence[str] = ()
    clause: str = ""


class _PassPrinter:
    """Prints one pass: a function for a block of rows, and one for a tensor whose blocks are all done."""

    def __init__(self, passes: Passes, number: int) -> None:
        self.passes, self.number = passes, number
        self.reductions, self.writes = passes.reductions_of(number), passes.writes_of(number)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _inputs(self, places: set[int]) -> tuple[list[str], list[tuple[Axes, str]]]:
        """Return the pointers to the inputs at these places, and the loads, each with the axes of its value."""
        passes, pointers, loads = self.passes, [], []
        for k, value in enumerate(passes.columns):
            if value.place in places or any(column == k for column, _ in self.writes):
                pointers.append(f"    {TYPES[value.dtype]} *x{k} = at[{k} * count];")
            if value.place in places:
                axes = passes.axes_of(value)
                position = "i" if axes == passes.axes else offset(axes)
                loads.append((axes, f"const {TYPES[value.dtype]} v{value.place} = x{k}[{position}];"))
        for k, value in enumerate(passes.recording.coefficients.values()):
            if value.place in places:
                loads.append(("", f"const double v{value.place} = row[{k}];"))
        element = passes.recording.element
        if element is not None and element.place in places:
            loads.append((passes.axes, f"const int64_t v{element.place} = i;"))
        for reduction in passes.reductions:
            place, dtype, column = reduction.result.place, TYPES[reduction.result.dtype], column_of(passes, reduction)
            axes = passes.axes_of(reduction.result)
            if place in places and reduction.over_model:
                k = passes.model_reductions.index(reduction)
                loads.append((axes, f"const {dtype} v{place} = ({dtype})model[{k}];"))
            elif place in places:
                pointers.append(f"    const double *results{place} = at[{column} * count];")
                loads.append((axes, f"const {dtype} v{place} = ({dtype})results{place}[{offset(axes)}];"))
        return pointers, loads

    def _by_loop(self, operations: Iterable[Operation], loads: list[tuple[Axes, str]]) -> dict[str, list[str]]:
        """Return the assignments by the axis of the innermost loop that they belong to; "" for none."""
        lines: dict[str, list[str]] = {axis: [] for axis in ("", *"bnm")}
        computed = ((self.passes.axes_of(operation.result), assignment(operation)) for operation in operations)
        for axes, text in [*loads, *computed]:
            lines[axes[-1:]].append(text)
        return lines

    # --- the block ----------------------------------------------------------------------------------------------------

    def block(self) -> str:
        """Return the function that loops over a block of rows of whole tensors; "" if the pass needs none."""
        passes, rows = self.passes, self.passes.rows_in_block
        reductions, writes = passes.whole_results_of(self.number)
        if not reductions and not writes:
            return ""
        targets = [*(reduction.operand for reduction in reductions), *(value for _, value in writes)]
        operations, places = passes.dependencies(targets)
        pointers, loads = self._inputs(places)
        loops = self._by_loop(operations, loads)
        accumulators = [self._accumulator(reduction) for reduction in reductions]
        lines = [
            f"static void block{self.number}(const int64_t *size, int64_t block, void *const *at, int64_t count,",
            "                   const double *row, const double *model) {",
            _SIZES,
            f"    const int64_t per = (N + {rows - 1}) / {rows}, b = block / per, low = block % per * {rows};",
            f"    const int64_t high = low + {rows} < N ? low + {rows} : N;",
            *pointers,
            *(f"    {text}" for text in (*loops[""], *loops["b"])),
            *(f"    {text}" for accumulator in accumulators for text in accumulator.before_block),
            "    for (int64_t n = low; n < high; n++) {",
            "        const int64_t start = (b * N + n) * M, left = size[3] - start, length = left < M ? left : M;",
            *(f"        {text}" for text in loops["n"]),
            *(f"        {text}" for accumulator in accumulators for text in accumulator.before_row),
            "        " + " ".join(["#pragma omp simd", *(a.clause for a in accumulators if a.clause)]),
            "        for (int64_t m = 0; m < length; m++) {",
            "            const int64_t i = start + m;",
            *(f"            {text}" for text in loops["m"]),
            *(f"            {text}" for accumulator in accumulators for text in accumulator.per_element),
            *(f"            x{k}[i] = {variable(value)};" for k, value in writes),
            "        }",
            *(f"        {text}" for accumulator in accumulators for text in accumulator.after_row),
            "    }",
            *(f"    {text}" for accumulator in accumulators for text in accumulator.after_block),
            "}",
        ]
        return "\n".join(lines)

    def _accumulator(self, reduction: RecordedReduction) -> _Accumulator:
        """Return the lines that compute the part of a block in a reduction."""
        form, place = self.passes.form_of(reduction), reduction.result.place
        column = column_of(self.passes, reduction)
        value = term(reduction)
        if form == "columns":
            return _Accumulator(
                before_block=[
                    f"double *columns{place} = (double *)at[{column + 1} * count] + block * M;",
                    f"for (int64_t m = 0; m < M; m++) columns{place}[m] = {_identity(reduction)};",
                ],
                per_element=[_accumulate(f"columns{place}[m]", value, reduction)],
            )
        accumulator = self._row_accumulator(reduction, value)
        total = f"total{place}"
        if form == "rows":
            pointer = f"double *results{place} = at[{column} * count];"
            position = offset(self.passes.axes_of(reduction.result))
            store = f"results{place}[{position}] = {result_of(self.passes, total, reduction)};"
            return accumulator._replace(before_block=[pointer], after_row=[*accumulator.after_row, store])
        return accumulator._replace(
            before_block=[f"double all{place} = {_identity(reduction)};"],
            after_row=[*accumulator.after_row, _accumulate(f"all{place}", total, reduction)],
            after_block=[f"((double *)at[{column + 1} * count])[block] = all{place};"],
        )

    def _row_accumulator(self, reduction: RecordedReduction, value: str) -> _Accumulator:
        """Return the lines that reduce the elements of a row, in any order."""
        total, has_nan = (f"{name}{reduction.result.place}" for name in ("total", "has_nan"))
        if reduction.kind is Max:
            # A comparison in any order loses NaN, which is therefore counted apart.
            return _Accumulator(
                before_row=[f"double {total} = -INFINITY;", f"int64_t {has_nan} = 0;"],
                per_element=[f"{total} = {value} > {total} ? {value} : {total};", f"{has_nan} |= {value} != {value};"],
                after_row=[f"if ({has_nan}) {total} = NAN;"],
                clause=f"reduction(max:{total}) reduction(|:{has_nan})",
            )
        return _Accumulator(
            before_row=[f"double {total} = 0;"],
            per_element=[_accumulate(total, value, reduction)],
            clause=f"reduction(+:{total})",
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def end(self) -> str:
        """Return the function that runs for a tensor after all its blocks; "" if the pass needs none.

        It completes reductions, and computes values that have fewer elements than the parameter.
        """
        lines = []
        for reduction in self.reductions:
            form = self.passes.form_of(reduction)
            if form == "few":
                lines += self._reduce_small(reduction)
            elif form != "rows":  # the block completes rows
                lines += self._combine_blocks(reduction)
        small = [(k, value) for k, value in self.writes if not self.passes.is_whole(value)]
        for axes in sorted({self.passes.axes_of(value) for _, value in small}, key=lambda axes: (-len(axes), axes)):
            targets = [(k, value) for k, value in small if self.passes.axes_of(value) == axes]
            stores = [f"x{k}[{offset(axes)}] = {variable(value)};" for k, value in targets]
            lines += self._nest(axes, [value for _, value in targets], stores)
        if not lines:
            return ""
        head = f"static void end{self.number}(const int64_t *size, void *const *at, int64_t count, const double *row,"
        return "\n".join([head, "                 const double *model) {", _SIZES, *lines, "}"])

    def _combine_blocks(self, reduction: RecordedReduction) -> list[str]:
        """Return the lines that complete a reduction from the partial results of the blocks."""
        passes, column = self.passes, column_of(self.passes, reduction)
        rows, result_axes = passes.rows_in_block, passes.axes_of(reduction.result)
        width = "M" if "m" in result_axes else "1"
        target = f"into[{'b * ' + width if 'b' in result_axes else '0'} + m]"
        return [
            "    {",
            f"        const int64_t per = (N + {rows - 1}) / {rows};",
            f"        const double *partials = at[{column + 1} * count];",
            *self._initialize(reduction),
            "        for (int64_t b = 0; b < B; b++)",
            "            for (int64_t k = 0; k < per; k++)",
            f"                for (int64_t m = 0; m < {width}; m++) {{",
            f"                    const double value = partials[(b * per + k) * {width} + m];",
            f"                    {_accumulate(target, 'value', reduction)}",
            "                }",
            *self._finish(reduction),
            "    }",
        ]

    def _reduce_small(self, reduction: RecordedReduction) -> list[str]:
        """Return the lines of a reduction of values that have fewer elements than the parameter."""
        target = f"into[{offset(self.passes.axes_of(reduction.result))}]"
        statement = _accumulate(target, term(reduction), reduction)
        loops = self._nest(self.passes.axes_of(reduction.operand), [reduction.operand], [statement])
        return ["    {", *self._initialize(reduction), *loops, *self._finish(reduction), "    }"]

    def _initialize(self, reduction: RecordedReduction) -> list[str]:
        column = column_of(self.passes, reduction)
        count = " * ".join(axis.upper() for axis in self.passes.axes_of(reduction.result)) or "1"
        return [
            f"        double *into = at[{column} * count];",
            f"        const int64_t results = {count};",
            f"        for (int64_t r = 0; r < results; r++) into[r] = {_identity(reduction)};",
        ]

    def _finish(self, reduction: RecordedReduction) -> list[str]:
        if reduction.kind not in (Mean, Norm):
            return []
        result = result_of(self.passes, "into[r]", reduction)
        return [f"        for (int64_t r = 0; r < results; r++) into[r] = {result};"]

    def _nest(self, axes: Axes, targets: list[RecordedValue], statements: list[str]) -> list[str]:
        """Return loops over these axes that compute some values and then run statements with them."""
        operations, places = self.passes.dependencies(targets)
        pointers, loads = self._inputs(places)
        loops = self._by_loop(operations, loads)
        lines = ["    {", *(f"    {text}" for text in (*pointers, *loops[""]))]
        for axis in axes:
            lines += [f"    for (int64_t {axis} = 0; {axis} < {axis.upper()}; {axis}++) {{", *loops[axis]]
        return [*lines, *statements, "    }" * len(axes), "    }"]
