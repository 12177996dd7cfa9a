"""Guards: functions that are not finite at 0, with an argument that is kept away from it."""

import ast
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.changes.parts.batches import drawn, parts_of
from thalweg.diagnosis.changes.parts.functions import Replacement, Replacing, SourceLine, is_float, once, undisturbed
from thalweg.diagnosis.changes.parts.source import called_name, replaced
from thalweg.tasks.training import Training

_EPS = 1e-7  # the smallest relative step of float32


def least(tensor: Tensor) -> float:
    """Return the smallest argument: 1e-7, or what the format resolves near 1 if that is more.

    Example:
        >>> least(torch.zeros(1)) < least(torch.zeros(1, dtype=torch.float16))
        True
    """
    return max(_EPS, torch.finfo(tensor.dtype).eps) if tensor.dtype in (torch.float16, torch.bfloat16) else _EPS


def _clamped(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function with its first argument at least a little above 0."""
    if not is_float(args[0]):
        return function(*args, **kwargs)
    return function(args[0].clamp_min(least(args[0])), *args[1:], **kwargs)


def _clamped_log1p(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(args[0].clamp_min(least(args[0]) - 1), *args[1:], **kwargs)


def _power(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    if isinstance(exponent, int | float) and exponent < 1 and exponent != 0 and is_float(args[0]):
        return _clamped(function, args, kwargs)
    return function(*args, **kwargs)


def away_from_zero(tensor: Any) -> Any:
    """Return a divisor whose elements are at least a little above or below 0."""
    if not is_float(tensor):
        return tensor
    small = least(tensor)
    return torch.where(tensor.abs() < small, torch.where(tensor < 0, -small, small).to(tensor.dtype), tensor)


def _divided(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (
        function(args[0], away_from_zero(args[1]), *args[2:], **kwargs) if len(args) > 1 else function(*args, **kwargs)
    )


def _divisor_first(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(away_from_zero(args[0]), *args[1:], **kwargs)


def _bounded_exp(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return an exponential that is neither 0 nor infinite."""
    if not is_float(args[0]):
        return function(*args, **kwargs)
    low, high = exponents(args[0].dtype)
    return function(args[0].clamp(low, high), *args[1:], **kwargs)


def exponents(dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and largest argument of an exponential in a format.

    Example:
        >>> exponents(torch.float16)
        (-9.0, 11.0)
    """
    limits = torch.finfo(dtype)
    return float(math.ceil(math.log(limits.tiny))), float(math.floor(math.log(limits.max)))


GUARDS: Mapping[str, Mapping[str, Replacement]] = {
    "roots": {"sqrt": _clamped, "rsqrt": _clamped, "pow": _power},
    "logarithms": {"log": _clamped, "log2": _clamped, "log10": _clamped, "log1p": _clamped_log1p, "xlogy": _clamped},
    "exponentials": {"exp": _bounded_exp},
    "divisions": {"div": _divided, "rdiv": _divisor_first, "reciprocal": _divisor_first, "rsqrt": _clamped},
}
"""Replacements of functions by the name of what they guard."""


def _unchanged(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def lines_of(training: Training, guards: str) -> list[SourceLine]:
    """Return the lines of the user's code that call functions in a forward pass and its loss."""
    mode = Replacing(dict.fromkeys(GUARDS[guards], _unchanged))

    def run() -> None:
        *inputs, target = parts_of(drawn(training, 1)[0])
        with once(mode):
            training.loss_fn(training.model(*inputs), target)

    try:
        undisturbed(training.model, run)
    except Exception:  # the model and the loss of the user's own step may take other arguments
        return list(mode.lines.values())
    return list(mode.lines.values())


ADVICE = {
    "roots": f"add {_EPS} under the root",
    "logarithms": f"the logarithm of x.clamp_min({_EPS})",
    "exponentials": "the exponential of x.clamp(-9.0, 11.0) in float16, (-87.0, 88.0) in float32; or logsumexp",
    "divisions": f"add {_EPS} to the divisor",
}
_MODULES = ("torch", "F", "functional", "linalg", "special", "math")


def guarded_text(text: str, guards: str) -> str:
    """Return the text of a line with its arguments guarded; with a comment that says how where that is not plain.

    Example:
        >>> guarded_text("return torch.sqrt(x) / y.log()", "roots")
        'return torch.sqrt(x.clamp_min(1e-07)) / y.log()'
        >>> guarded_text("return (x * y).sum().sqrt()", "roots")
        'return (x * y).sum().clamp_min(1e-07).sqrt()'
        >>> guarded_text("z = x / x.std()", "divisions")
        'z = x / (x.std() + 1e-07)'
    """
    head = "def f():\n    "
    try:
        tree = ast.parse(head + text)
    except SyntaxError:  # a part of a longer statement
        return f"{text}  # {ADVICE[guards]}"
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.expr) and _argument(node, guards) is not None]
    if not chosen:
        return f"{text}  # {ADVICE[guards]}"
    argument = _argument(chosen[0], guards)
    assert argument is not None
    inner = ast.get_source_segment(head + text, argument) or ""
    if guards == "divisions":
        new = f"({inner} + {_EPS})"
    else:
        is_simple = isinstance(argument, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
        new = f"{inner}.clamp_min({_EPS})" if is_simple else f"({inner}).clamp_min({_EPS})"
    return replaced(head + text, argument, new).removeprefix(head)


def _argument(node: ast.expr, guards: str) -> ast.expr | None:
    """Return the argument of an expression that is to be guarded; None if there is none."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Div):
            return node.right if guards == "divisions" else None
        return node.left if isinstance(node.op, ast.Pow) and guards == "roots" and _is_root(node.right) else None
    if not isinstance(node, ast.Call) or called_name(node) not in _CLAMPED.get(guards, ()):
        return None
    if isinstance(node.func, ast.Name) or (
        isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).rpartition(".")[2] in _MODULES
    ):
        return node.args[0] if node.args else None
    return node.func.value if isinstance(node.func, ast.Attribute) else None


_CLAMPED = {"roots": ("sqrt", "rsqrt"), "logarithms": ("log", "log2", "log10")}


def _is_root(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < 1
