"""Checks: what a parameter must be, to be given to an optimizer."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.core import precision
from thalweg.errors import ParameterError, ParameterTypeError
from thalweg.rules import Rule


def check_parameter(who: str, rule: Rule, param: Any, rounding: precision.Rounding) -> None:
    """Refuse what is no parameter, or none that the rule can take at its settings."""
    if not isinstance(param, Tensor):
        raise ParameterTypeError(
            f"{who}: every parameter must be a tensor, got {type(param).__name__} ({param!r:.60}). "
            "Pass model.parameters(), or a list of tensors."
        )
    lazy = is_lazy(param)
    shape = "a shape that is not known yet" if lazy else f"shape {tuple(param.shape)}"
    if not (param.is_floating_point() or param.is_complex()):
        raise ParameterError(
            f"{who}: every parameter must be of a floating-point or complex dtype, got {param.dtype} of {shape}."
        )
    if param.is_complex() and not rule.traits.supports_complex:
        raise ParameterError(f"{who}: parameters must be real, got complex ones of {shape}. Give them to AdamW, say.")
    if not lazy:
        _check_shape(who, rule, param.shape)
    elif rule.traits.needs_whole_matrices or rule.traits.min_dims or rule.traits.max_dims is not None:
        raise ParameterError(
            f"{who}: every parameter must have a shape, got one of a lazy module that has none yet. Pass one batch "
            "through the model before you make the optimizer."
        )
    check_rounding(who, rounding, param.dtype)


def _check_shape(who: str, rule: Rule, shape: torch.Size) -> None:
    if len(shape) < rule.traits.min_dims:
        raise ParameterError(
            f"{who}: every parameter must have {rule.traits.min_dims} dimensions or more, got one of shape "
            f"{tuple(shape)}. thalweg.optim.route(model, ...) gives the others to AdamW."
        )
    if rule.traits.max_dims is not None and len(shape) > rule.traits.max_dims:
        raise ParameterError(
            f"{who}: every parameter must have {rule.traits.max_dims} dimensions or fewer, got one of shape "
            f"{tuple(shape)}. Give it to another optimizer (AdamW, say), or keep it reshaped in the model."
        )
    rule.layout(shape)  # a parameter that cannot be split as asked is refused here


def check_rounding(who: str, rounding: precision.Rounding, dtype: torch.dtype) -> None:
    """Refuse a way of rounding that a dtype has not."""
    if reason := precision.unsupported_reason(rounding, dtype):
        raise ParameterError(f'{who}: {reason}, got a parameter of {dtype}. Use rounding="kahan".')
