"""Parameter checks: the conditions that a parameter must meet to be given to an optimizer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.core import precision
from thalweg.errors import ParameterError, ParameterTypeError
from thalweg.rules import Rule


def as_list(who: str, params: Any) -> list[Any]:
    """Return the parameters or groups given to an optimizer as a list.

    Raises:
        ParameterTypeError: If they are a single tensor or not iterable.
        ParameterError: If there are none.
    """
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        got = f"one tensor of shape {tuple(params.shape)}" if isinstance(params, Tensor) else type(params).__name__
        raise ParameterTypeError(
            f"{who}: params must be a list of tensors, got {got}. Pass [tensor], or model.parameters()."
        )
    entries = list(params)
    if not entries:
        raise ParameterError(
            f"{who}: params must hold at least one parameter, got none. Pass model.parameters(). "
            "An iterator can be used only once."
        )
    return entries


def check_parameter(who: str, rule: Rule, param: Any, rounding: precision.Rounding) -> None:
    """Check that a rule can optimize a parameter.

    Args:
        who: The name of the optimizer, for the error message.
        rule: The rule at the settings of the parameter's group.
        param: The parameter.
        rounding: The rounding of the parameter's group.

    Raises:
        ParameterTypeError: If the parameter is not a tensor.
        ParameterError: If the rule cannot optimize it.
    """
    if not isinstance(param, Tensor):
        raise ParameterTypeError(
            f"{who}: every parameter must be a tensor, got {type(param).__name__} ({param!r:.60}). "
            "Pass model.parameters(), or a list of tensors."
        )
    lazy = is_lazy(param)
    shape = "an unknown shape" if lazy else f"shape {tuple(param.shape)}"
    if not (param.is_floating_point() or param.is_complex()):
        raise ParameterError(
            f"{who}: every parameter must be of a floating-point or complex dtype, got {param.dtype} of {shape}."
        )
    if param.is_complex() and not rule.traits.supports_complex:
        raise ParameterError(
            f"{who}: parameters must be real, got complex ones of {shape}. Use AdamW for them, for example."
        )
    if not lazy:
        _check_shape(who, rule, param.shape)
    elif rule.traits.needs_whole_matrices or rule.traits.min_dims or rule.traits.max_dims is not None:
        raise ParameterError(
            f"{who}: every parameter must have a shape, got one of a lazy module that has none yet. Pass one batch "
            "through the model before you create the optimizer."
        )
    check_rounding(who, rounding, param.dtype)


def _check_shape(who: str, rule: Rule, shape: torch.Size) -> None:
    if len(shape) < rule.traits.min_dims:
        raise ParameterError(
            f"{who}: every parameter must have {rule.traits.min_dims} dimensions or more, got one of shape "
            f"{tuple(shape)}. thalweg.optim.route(model, ...) uses AdamW for the others."
        )
    if rule.traits.max_dims is not None and len(shape) > rule.traits.max_dims:
        raise ParameterError(
            f"{who}: every parameter must have {rule.traits.max_dims} dimensions or fewer, got one of shape "
            f"{tuple(shape)}. Use another optimizer for it, AdamW for example, or reshape it in the model."
        )
    rule.layout(shape)  # raises if the parameter cannot be split into the requested blocks


def check_rounding(who: str, rounding: precision.Rounding, dtype: torch.dtype) -> None:
    """Raise ParameterError if the dtype does not support this rounding."""
    if reason := precision.unsupported_reason(rounding, dtype):
        raise ParameterError(f'{who}: {reason}, got a parameter of {dtype}. Use rounding="kahan".')
