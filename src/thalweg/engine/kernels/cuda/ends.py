"""Ends: the kernels that follow the chunks of a pass. They complete reductions and compute values of few elements."""

from collections.abc import Callable, Sequence
from itertools import chain, starmap

from thalweg.engine.kernels.cuda.inputs import (
    SIZES,
    by_axes,
    operator_of,
    partials_of,
    pointer,
    results_of,
    small_inputs,
)
from thalweg.engine.kernels.expressions import result_of, term, variable
from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import RecordedReduction, RecordedValue
from thalweg.rules import Mean, Norm


def end_kernel(passes: Passes, number: int) -> str:
    """Return the kernel that completes the reductions of a pass; "" if it has none. ``SLICES`` blocks share a tensor.

    No result of a pass depends on another one of the same pass.
    """
    reductions = passes.reductions_of(number)
    if not reductions:
        return ""
    bodies = [_few(passes, r) if passes.form_of(r) == "few" else _from_partials(passes, r) for r in reductions]
    return "\n".join([*_head(f"end{number}"), *bodies, "}"])


def write_kernels(passes: Passes, number: int) -> dict[str, str]:
    """Return the kernels that write the state of few elements, by name, in the order in which they must run.

    A value may depend on one that varies along fewer axes. That one is written later.
    """
    small = [(k, value) for k, value in passes.writes_of(number) if not passes.is_whole(value)]
    kernels = {}
    for length in sorted({len(passes.axes_of(value)) for _, value in small}, reverse=True):
        values = [(k, value) for k, value in small if len(passes.axes_of(value)) == length]
        name = f"write{number}_{length}"
        loops = [_write(passes, axes, values) for axes in sorted({passes.axes_of(value) for _, value in values})]
        kernels[name] = "\n".join([*_head(name), *loops, "}"])
    return kernels


def gather_kernel(passes: Passes, number: int) -> str:
    """Return the kernel of one block that adds up the tensors of a batch, for reductions over the model."""

    def sums(reduction: RecordedReduction, k: int) -> list[str]:
        return [
            f"    reduce<{operator_of(reduction)}>(1, call.count, 1, 0,",
            f"        [&](int64_t, int64_t t) {{ return *{results_of(passes, reduction)}; }},",
            "        [&](int64_t, double total) {",
            f"            if (call.num_parts > 1) call.parts[{k} * call.num_parts + call.part] = total;",
            f"            else call.model[{k}] = {_over_model(reduction)};",
            "        });",
        ]

    return _model_kernel(passes, "gather", number, sums)


def combine_kernel(passes: Passes, number: int) -> str:
    """Return the kernel of one block that adds up the batches which share the reductions over the model of a pass."""

    def sums(reduction: RecordedReduction, k: int) -> list[str]:
        return [
            f"    reduce<{operator_of(reduction)}>(1, call.num_parts, 1, 0,",
            f"        [&](int64_t, int64_t part) {{ return call.parts[{k} * call.num_parts + part]; }},",
            f"        [&](int64_t, double total) {{ call.model[{k}] = {_over_model(reduction)}; }});",
        ]

    return _model_kernel(passes, "combine", number, sums)


def _model_kernel(passes: Passes, name: str, number: int, sums: Callable[[RecordedReduction, int], list[str]]) -> str:
    """Return a kernel of one block with the lines of each reduction over the model in a pass; "" if there is none."""
    reductions = [
        (reduction, k)
        for k, reduction in enumerate(passes.model_reductions)
        if reduction in passes.reductions_of(number)
    ]
    if not reductions:
        return ""
    return "\n".join([f"KERNEL({name}{number}) {{", "    SKIP", *chain.from_iterable(starmap(sums, reductions)), "}"])


def _over_model(reduction: RecordedReduction) -> str:
    if reduction.kind is Mean:
        return "total / (double)call.model_numel"
    return "sqrt(total)" if reduction.kind is Norm else "total"


def _head(name: str) -> list[str]:
    return [
        f"KERNEL({name}) {{",
        "    SKIP",
        "    const int64_t t = call.first_tensor + here / SLICES;",
        "    const int slice = (int)(here % SLICES); (void)slice;",
        SIZES,
    ]


def _from_partials(passes: Passes, reduction: RecordedReduction) -> str:
    """Return the text that reduces the partial results of the chunks.

    Result number ``r`` is ``i`` of ``inner`` in group ``g``; its partial results lie ``inner`` numbers apart.
    """
    form, axes = passes.form_of(reduction), passes.axes_of(reduction.result)
    across, down = "ceil_div(M, TILE_COLUMNS)", "ceil_div(N, TILE_ROWS)"
    groups = "B" if form in ("rows", "columns") or "b" in axes else "1"
    inner = {"rows": "N", "columns": "M"}.get(form, "1")
    if passes.axes == "m":
        terms = "ceil_div(size[3], CHUNK)"
    else:
        all_tiles = f"{across} * {down}" if groups == "B" else f"B * {across} * {down}"
        terms = {"rows": across, "columns": down}.get(form, all_tiles)
    return "\n".join(
        [
            "    {",
            f"        const double *partials = {partials_of(passes, reduction)}; IN_GLOBAL(partials);",
            f"        double *results = {results_of(passes, reduction)}; IN_GLOBAL(results);",
            f"        const int64_t inner = {inner}, terms = {terms};",
            f"        reduce<{operator_of(reduction)}>({groups} * inner, terms, SLICES, slice,",
            "            [&](int64_t r, int64_t k) { return partials[(r / inner * terms + k) * inner + r % inner]; },",
            f"            [&](int64_t r, double total) {{ results[r] = {result_of(passes, 'total', reduction)}; }});",
            "    }",
        ]
    )


def _few(passes: Passes, reduction: RecordedReduction) -> str:
    """Return the text that reduces values of few elements, which are computed here."""
    axes, kept = passes.axes_of(reduction.operand), passes.axes_of(reduction.result)
    reduced = "".join(axis for axis in axes if axis not in kept)
    pointers, lines = _computation(passes, [reduction.operand])
    return "\n".join(
        [
            "    {",
            *pointers,
            f"        double *results = {results_of(passes, reduction)}; IN_GLOBAL(results);",
            f"        reduce<{operator_of(reduction)}>({_product(kept)}, {_product(reduced)}, SLICES, slice,",
            "            [&](int64_t r, int64_t k) {",
            *(f"                {text}" for text in (*_coordinates(kept, "r"), *_coordinates(reduced, "k"), *lines)),
            f"                return {term(reduction)};",
            "            },",
            f"            [&](int64_t r, double total) {{ results[r] = {result_of(passes, 'total', reduction)}; }});",
            "    }",
        ]
    )


def _write(passes: Passes, axes: Axes, small: Sequence[tuple[int, RecordedValue]]) -> str:
    """Return the loop that computes and writes all values along these axes, an element a thread."""
    values = [(k, value) for k, value in small if passes.axes_of(value) == axes]
    pointers, lines = _computation(passes, [value for _, value in values])
    targets = [f"    {pointer(passes, k, passes.columns[k])}" for k, _ in values]
    return "\n".join(
        [
            "    {",
            *dict.fromkeys([*pointers, *targets]),
            f"        const int64_t numbers = {_product(axes)};",
            "        THREADS for (int64_t r = (int64_t)slice * WIDTH + thread; r < numbers; r += SLICES * WIDTH) {",
            *(f"            {text}" for text in (*_coordinates(axes, "r"), *lines)),
            *(f"            x{k}[r] = {variable(value)};" for k, value in values),
            "        }",
            "        TOGETHER",
            "    }",
        ]
    )


def _computation(passes: Passes, targets: Sequence[RecordedValue]) -> tuple[list[str], list[str]]:
    """Return the pointers, and the lines that compute some values at the coordinates ``b``, ``n`` and ``m``."""
    operations, places = passes.dependencies(targets)
    pointers, inputs = small_inputs(passes, places)
    lines = by_axes(passes, inputs, operations)
    return [f"    {text}" for text in pointers], [text for axes in sorted(lines, key=len) for text in lines[axes]]


def _product(axes: Axes) -> str:
    return " * ".join(axis.upper() for axis in axes) or "(int64_t)1"


def _coordinates(axes: Axes, number: str) -> list[str]:
    """Return the declarations of the coordinates along these axes, from the number of an element."""
    lines, rest = [], number
    for k, axis in enumerate(axes):
        following = axes[k + 1 :]
        quotient = f"({rest}) / ({_product(following)})" if following else rest
        lines.append(f"const int64_t {axis} = {quotient}; (void){axis};")
        rest = f"({rest}) % ({_product(following)})"
    return lines
