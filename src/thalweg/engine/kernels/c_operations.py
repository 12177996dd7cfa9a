"""C operations: what is recorded, as C expressions.

Only operations that C and PyTorch round alike are known here (IEEE arithmetic, roots, comparisons, bits), and the
compiler may not fuse or reorder them. A program with another operation is left to the other ways.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from thalweg.engine.kernels.recording import Operation, RecordedValue, UnknownOperationError

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "_Float16",
    torch.bfloat16: "bfloat16",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "int32_t",  # of the width of a float: loops over `_Bool` stay scalar
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
    "aten.ones_like.default": "1",
    "aten.zeros_like.default": "0",
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


def assignment(of: Operation) -> str:
    return f"const {TYPES[of.result.dtype]} v{of.result.place} = {_expression(of)};"


def _expression(of: Operation) -> str:
    if of.result.dtype == torch.bool and of.operator in ("aten._to_copy.default", "aten.bitwise_not.default"):
        raise UnknownOperationError(f"{of.operator} of truth values")
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
    if _differs_in_c(of):
        raise UnknownOperationError(f"{of.operator} as PyTorch means it here")
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


def _differs_in_c(of: Operation) -> bool:
    """Whether PyTorch means another thing: sums of truth values, a factor beside, a whole number against a part."""
    if of.operator.split(".")[1] in ("add", "sub", "rsub", "mul"):
        return of.result.dtype == torch.bool or any(factor != 1 for factor in of.args[2:])
    compares = of.result.dtype == torch.bool and not of.computed_in.is_floating_point
    return compares and any(isinstance(arg, float) for arg in of.args)


def _as(arg: Any, dtype: torch.dtype) -> str:
    """An operand in a dtype. Plain numbers become float64 first, as in PyTorch."""
    if not isinstance(arg, RecordedValue):
        return f"(({TYPES[dtype]}){_number(arg)})"
    if arg.dtype == dtype:
        return f"v{arg.place}"
    if arg.dtype == torch.bfloat16:
        return f"(({TYPES[dtype]})widened(v{arg.place}))"
    if dtype == torch.bfloat16:
        return f"narrowed((float)v{arg.place})"
    return f"(({TYPES[dtype]})v{arg.place})"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"({value})"
    if math.isfinite(value):
        return f"({value.hex()})"
    return {"inf": "INFINITY", "-inf": "(-INFINITY)", "nan": "NAN"}[str(value)]
