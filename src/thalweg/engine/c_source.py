"""C source: a recording printed as a C function that steps many tensors in one call.

Only operations that C and PyTorch round alike are known here (IEEE arithmetic, roots, comparisons, bits), and the
compiler may not fuse or reorder them: a kernel equals the loop to the last bit. A program with another operation is
left to the other ways.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from thalweg.engine import look
from thalweg.engine.recording import Operation, Recording, Value

_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "_Float16",
    torch.bfloat16: "bfloat16",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "_Bool",
}

# Each operator on operands already of type {t}. NaN is passed on wherever PyTorch passes it on.
_ARITHMETIC: dict[str, str] = {
    "aten.add.Tensor": "{0} + {1}",
    "aten.add.Scalar": "{0} + {1}",
    "aten.sub.Tensor": "{0} - {1}",
    "aten.sub.Scalar": "{0} - {1}",
    "aten.rsub.Scalar": "{1} - {0}",
    "aten.mul.Tensor": "{0} * {1}",
    "aten.mul.Scalar": "{0} * {1}",
    "aten.div.Tensor": "{0} / {1}",
    "aten.div.Scalar": "{0} / {1}",
    "aten.neg.default": "-{0}",
    "aten.abs.default": "{0} < 0 ? -{0} : {0} + 0",
    "aten.reciprocal.default": "1 / {0}",
    "aten.maximum.default": "{0} > {1} || {0} != {0} ? {0} : {1}",
    "aten.minimum.default": "{0} < {1} || {0} != {0} ? {0} : {1}",
    "aten.clamp_min.default": "{0} < {1} ? {1} : {0}",
    "aten.clamp_max.default": "{0} > {1} ? {1} : {0}",
    "aten.clamp_min.Tensor": "{0} < {1} ? {1} : {0}",
    "aten.clamp_max.Tensor": "{0} > {1} ? {1} : {0}",
    "aten.sign.default": "({0} > 0) - ({0} < 0)",
    "aten.lt.Tensor": "{0} < {1}",
    "aten.lt.Scalar": "{0} < {1}",
    "aten.le.Tensor": "{0} <= {1}",
    "aten.le.Scalar": "{0} <= {1}",
    "aten.gt.Tensor": "{0} > {1}",
    "aten.gt.Scalar": "{0} > {1}",
    "aten.ge.Tensor": "{0} >= {1}",
    "aten.ge.Scalar": "{0} >= {1}",
    "aten.eq.Tensor": "{0} == {1}",
    "aten.eq.Scalar": "{0} == {1}",
    "aten.ne.Tensor": "{0} != {1}",
    "aten.ne.Scalar": "{0} != {1}",
    "aten.bitwise_and.Tensor": "{0} & {1}",
    "aten.bitwise_and.Scalar": "{0} & {1}",
    "aten.bitwise_or.Tensor": "{0} | {1}",
    "aten.bitwise_xor.Tensor": "{0} ^ {1}",
    "aten.bitwise_not.default": "~{0}",
    "aten.__rshift__.Scalar": "{0} >> {1}",
    "aten.__lshift__.Scalar": "{0} << {1}",
}


class UnknownOperationError(Exception):
    """The recording has an operation that is not known to round alike in C."""


def _root(of: Operation, args: list[str]) -> str:
    return f"{'sqrtf' if of.computed_in == torch.float32 else 'sqrt'}({args[0]})"


def _power(of: Operation, args: list[str]) -> str:
    exponent = of.args[1]
    if exponent == 2:
        return f"{args[0]} * {args[0]}"
    if exponent == 0.5:
        return _root(of, args)
    raise UnknownOperationError(f"a power of {exponent}")


def _clamp(of: Operation, args: list[str]) -> str:
    value = args[0]
    if of.args[1] is not None:
        value = f"({value} < {args[1]} ? {args[1]} : {value})"
    if len(of.args) > 2:
        value = f"({value} > {args[2]} ? {args[2]} : {value})"
    return value


_SPECIAL: dict[str, Callable[[Operation, list[str]], str]] = {
    "aten.sqrt.default": _root,
    "aten.pow.Tensor_Scalar": _power,
    "aten.clamp.default": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.detach.default": lambda of, args: args[0],
}

_PRELUDE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

static inline float widened(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline bfloat16 narrowed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bfloat16 even = (bfloat16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    return x != x ? 0x7FC0 : even;
}

static inline int32_t bits_of(float x) {
    int32_t y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline float float_of(int32_t x) {
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}
"""

# `at` holds the addresses of all tensors, column by column; `row_stride` is 0 where all tensors share one row.
_EPILOGUE = """
void step(int64_t count, const int64_t *sizes, void *const *at, const double *rows, int64_t row_stride,
          int64_t threads) {
    int64_t all = 0;
    for (int64_t t = 0; t < count; t++) all += sizes[t];
    #pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t k = 0; k < threads; k++) {
        /* Each thread takes an equal share of all elements, wherever the tensors begin and end. */
        int64_t from = all * k / threads, to = all * (k + 1) / threads, start = 0;
        for (int64_t t = 0; t < count && start < to; t++) {
            int64_t low = from > start ? from - start : 0;
            int64_t high = to - start < sizes[t] ? to - start : sizes[t];
            if (low < high) stretch(low, high, at + t, count, rows + t * row_stride);
            start += sizes[t];
        }
    }
}
"""


def c_source(recording: Recording) -> str:
    """A translation unit whose public functions are `step`, for whose arguments see `_EPILOGUE`, and `look`.

    The columns of `at` are the parameters, the gradients, and the state in the order of the layout. Parameters and
    state are written in place.
    """
    columns = [recording.param, recording.grad, *recording.state.values()]
    lines = ["", "static void stretch(int64_t low, int64_t high, void *const *at, int64_t count, const double *row) {"]
    lines += [f"    const double v{one.place} = row[{k}];" for k, one in enumerate(recording.coefficients.values())]
    lines += [f"    {_TYPES[one.dtype]} *x{k} = at[{k} * count];" for k, one in enumerate(columns)]
    lines += [f"    {_assignment(one)}" for one in recording.operations if one.result.uniform]
    lines += ["    #pragma omp simd", "    for (int64_t i = low; i < high; i++) {"]
    lines += [f"        const {_TYPES[one.dtype]} v{one.place} = x{k}[i];" for k, one in enumerate(columns)]
    if recording.element is not None:
        lines += [f"        const int64_t v{recording.element.place} = i;"]
    lines += [f"        {_assignment(one)}" for one in recording.operations if not one.result.uniform]
    written = [0, *range(2, len(columns))]
    lines += [f"        x{k}[i] = v{one.place};" for k, one in zip(written, recording.outputs, strict=True)]
    return "\n".join([_PRELUDE, *lines[1:], "    }", "}", _EPILOGUE, look.C_SOURCE])


def _assignment(of: Operation) -> str:
    return f"const {_TYPES[of.result.dtype]} v{of.result.place} = {_expression(of)};"


def _expression(of: Operation) -> str:
    if of.operator == "aten._to_copy.default":
        return _as(of.args[0], of.result.dtype)
    if of.operator == "aten.view.dtype":
        seen = {torch.int32: "bits_of", torch.float32: "float_of"}.get(of.result.dtype)
        if seen is None or of.args[0].dtype not in (torch.int32, torch.float32):
            raise UnknownOperationError(f"{of.operator} from {of.args[0].dtype} to {of.result.dtype}")
        return f"{seen}(v{of.args[0].place})"
    if of.operator == "aten.where.self":
        condition, *chosen = of.args
        return "v{} ? {} : {}".format(condition.place, *(_as(one, of.result.dtype) for one in chosen))
    if of.computed_in in (torch.float16, torch.bfloat16):
        raise UnknownOperationError(f"{of.operator} in {of.computed_in}")
    # What is compared is compared in its own dtype; everything else is computed in the dtype of the result.
    dtype = of.computed_in if of.result.dtype == torch.bool else of.result.dtype
    args = [_as(arg, dtype) for arg in of.args if arg is not None]
    if of.args[1:2] == (None,):
        args.insert(1, "")
    if of.operator in _SPECIAL:
        return _SPECIAL[of.operator](of, args)
    if of.operator not in _ARITHMETIC:
        raise UnknownOperationError(of.operator)
    return _ARITHMETIC[of.operator].format(*args)


def _as(arg: Any, dtype: torch.dtype) -> str:
    """An operand in a dtype. Plain numbers become float64 first, as in PyTorch."""
    if not isinstance(arg, Value):
        return f"(({_TYPES[dtype]}){_number(arg)})"
    if arg.dtype == dtype:
        return f"v{arg.place}"
    if arg.dtype == torch.bfloat16:
        return f"(({_TYPES[dtype]})widened(v{arg.place}))"
    if dtype == torch.bfloat16:
        return f"narrowed((float)v{arg.place})"
    return f"(({_TYPES[dtype]})v{arg.place})"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"({value})"
    if math.isfinite(value):
        return f"({value.hex()})"
    return {"inf": "INFINITY", "-inf": "(-INFINITY)", "nan": "NAN"}[str(value)]
