"""C operations: recorded operations as C expressions.

This table holds only operations that C and PyTorch round equally (IEEE arithmetic, roots, comparisons, bits), and the
compiler must not fuse or reorder them. A program with any other operation has no kernel; other backends run it.
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

# Each operator on operands of one type. NaN propagates wherever it does in PyTorch.
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

# Integers wrap around, as in PyTorch. In C only those without a sign may.
_UNSIGNED = {torch.int32: "uint32_t", torch.int64: "uint64_t"}
_WRAPPING = frozenset(
    f"aten.{name}"
    for name in (
        "__lshift__.Scalar",
        "rsub.Scalar",
        *(f"{kind}.{operand}" for kind in ("add", "sub", "mul") for operand in ("Tensor", "Scalar")),
    )
)


def _root(operation: Operation, args: list[str]) -> str:
    return f"{'sqrtf' if operation.computed_in == torch.float32 else 'sqrt'}({args[0]})"


def _power(operation: Operation, args: list[str]) -> str:
    exponent = operation.args[1]
    if exponent == 2:
        return f"{args[0]} * {args[0]}"
    if exponent == 0.5:
        return _root(operation, args)
    raise UnknownOperationError(f"a power of {exponent}")


def _clamp(operation: Operation, args: list[str]) -> str:
    value = args[0]
    if operation.args[1] is not None:
        value = f"({value} < {args[1]} ? {args[1]} : {value})"
    if len(operation.args) > 2:
        value = f"({value} > {args[2]} ? {args[2]} : {value})"
    return value


_SPECIAL: dict[str, Callable[[Operation, list[str]], str]] = {
    "aten.sqrt.default": _root,
    "aten.pow.Tensor_Scalar": _power,
    "aten.clamp.default": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.detach.default": lambda operation, args: args[0],
}


def assignment(operation: Operation) -> str:
    """Return the C statement that computes the result of an operation.

    Args:
        operation: A recorded operation. The C variable of a value with place 3 is ``v3``.

    Raises:
        UnknownOperationError: If C cannot compute it with the rounding of PyTorch.
    """
    return f"const {TYPES[operation.result.dtype]} v{operation.result.place} = {_expression(operation)};"


def _expression(operation: Operation) -> str:
    if operation.result.dtype == torch.bool and operation.operator in (
        "aten._to_copy.default",
        "aten.bitwise_not.default",
    ):
        raise UnknownOperationError(f"{operation.operator} of booleans")
    if operation.operator == "aten._to_copy.default":
        return _as(operation.args[0], operation.result.dtype)
    if operation.operator == "aten.view.dtype":
        function = {torch.int32: "bits_of", torch.float32: "float_of"}.get(operation.result.dtype)
        if function is None or operation.args[0].dtype not in (torch.int32, torch.float32):
            raise UnknownOperationError(
                f"{operation.operator} from {operation.args[0].dtype} to {operation.result.dtype}"
            )
        return f"{function}(v{operation.args[0].place})"
    if operation.operator == "aten.where.self":
        condition, *branches = operation.args
        return "v{} ? {} : {}".format(condition.place, *(_as(branch, operation.result.dtype) for branch in branches))
    if operation.computed_in in (torch.float16, torch.bfloat16):
        raise UnknownOperationError(f"{operation.operator} in {operation.computed_in}")
    if _differs_in_c(operation):
        raise UnknownOperationError(f"{operation.operator} with the meaning that PyTorch gives it here")
    # Comparisons are made in the dtype of the operands; everything else is computed in the dtype of the result.
    dtype = operation.computed_in if operation.result.dtype == torch.bool else operation.result.dtype
    args = [_as(arg, dtype) for arg in operation.args if arg is not None]
    if operation.args[1:2] == (None,):
        args.insert(1, "")
    if operation.operator in _WRAPPING and dtype in _UNSIGNED:
        unsigned = [f"({_UNSIGNED[dtype]}){arg}" for arg in args]
        return f"({TYPES[dtype]})({_ARITHMETIC[operation.operator].format(*unsigned)})"
    if operation.operator in _SPECIAL:
        return _SPECIAL[operation.operator](operation, args)
    if operation.operator not in _ARITHMETIC:
        raise UnknownOperationError(operation.operator)
    return _ARITHMETIC[operation.operator].format(*args)


def _differs_in_c(operation: Operation) -> bool:
    """Return True for sums of booleans, sums with a factor, and comparisons of integers with fractions."""
    if operation.operator.split(".")[1] in ("add", "sub", "rsub", "mul"):
        return operation.result.dtype == torch.bool or any(factor != 1 for factor in operation.args[2:])
    compares = operation.result.dtype == torch.bool and not operation.computed_in.is_floating_point
    return compares and any(isinstance(arg, float) for arg in operation.args)


def _as(arg: Any, dtype: torch.dtype) -> str:
    """Return an operand in a dtype. Plain numbers become float64 first, as in PyTorch."""
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
