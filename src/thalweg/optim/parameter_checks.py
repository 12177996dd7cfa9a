"""Parameter checks: the conditions that a parameter must meet to be given to an optimizer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.core import precision
from thalweg.errors import ParameterError, ParameterTypeError, shown
from thalweg.rules import Rule

# The dtypes of trained parameters. Others, such as float8, only store numbers.
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)


def as_list(who: str, values: Any, name: str = "params") -> list[Any]:
    """Return the parameters or groups that a user passed as a list.

    Args:
        who: The optimizer or function that was called, for the error message.
        values: What the user passed.
        name: The argument, for the error message.

    Raises:
        ParameterTypeError: If they are a single tensor, a text or not iterable.
        ParameterError: If there are none.
    """
    if isinstance(values, Tensor | str | bytes) or not isinstance(values, Iterable):
        got = f"one tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ParameterTypeError(
            f"{who}: {name} must be a list of tensors, got {got}. Pass [tensor], or model.parameters()."
        )
    try:
        entries = list(values)
    except (TypeError, RuntimeError, ValueError) as error:  # an iterator that fails
        raise ParameterTypeError(
            f"{who}: {name} must be a list of tensors, got {type(values).__name__}, which cannot be iterated over."
        ) from error
    if not entries:
        raise ParameterError(
            f"{who}: {name} must hold at least one parameter, got none. Pass model.parameters(). "
            "An iterator can be used only once."
        )
    return entries


def as_entries(who: str, params: Any, groups: Sequence[Mapping[str, Any]], *, differentiable: bool) -> list[Any]:
    """Return the parameters of a new group: tensors, or pairs of a name and a tensor.

    Args:
        who: The name of the optimizer, for the error message.
        params: The parameters as the user passed them.
        groups: The groups that the optimizer has.
        differentiable: True if steps are differentiable, so that a parameter may be the result of an operation.

    Raises:
        ParameterTypeError: If a parameter is not a tensor, or parameters are in a set.
        ParameterError: If a parameter is in another group, is the result of an operation, or has no name while others
            have one.
    """
    if isinstance(params, Tensor):
        params = [params]
    if isinstance(params, set | frozenset) or not isinstance(params, Iterable):
        raise ParameterTypeError(
            f"{who}: the parameters of a group must be in a list, got a {type(params).__name__}. Pass a list, which "
            "has an order."
        )
    entries = list(params)
    named = [isinstance(entry, tuple) and len(entry) >= 2 for entry in entries]
    for has_name, entry in zip(named, entries, strict=True):
        tensor = entry[1] if has_name else entry
        if not isinstance(tensor, Tensor):
            raise ParameterTypeError(
                f"{who}: every parameter must be a tensor, got {type(tensor).__name__} ({shown(tensor, 60)}). "
                "Pass model.parameters(), or a list of tensors."
            )
        if not (differentiable or tensor.is_leaf or tensor.retains_grad):
            raise ParameterError(
                f"{who}: every parameter must be a leaf of the graph, got the result of an operation, of shape "
                f"{tuple(tensor.shape)}. Pass the tensor that it was computed from, or its detach().requires_grad_()."
            )
    names_expected = "param_names" in groups[0] if groups else any(named)
    if any(has_name != names_expected for has_name in named or [False]):
        raise ParameterError(
            f"{who}: all parameters must have a name or none, got {sum(named)} of {len(named)} with a name"
            f"{' beside groups of the other kind' if groups else ''}. Pass model.named_parameters() everywhere."
        )
    grouped = {id(param) for group in groups for param in group["params"]}
    if any(id(entry[1] if named[0] else entry) in grouped for entry in entries):
        raise ParameterError(f"{who}: a parameter must be in one group only, got one that is in two. Remove one.")
    return entries


def check_parameter(who: str, rule: Rule, param: Any, rounding: precision.Rounding) -> None:
    """Check that a rule can optimize a parameter.

    Args:
        who: The name of the optimizer, for the error message.
        rule: The rule at the settings of the parameter's group.
        param: The parameter.
        rounding: The rounding of the parameter's group.

    Raises:
        ParameterError: If the rule cannot optimize it.
    """
    if param.requires_grad:
        check_storage(who, param)
    if not can_be_trained(param):
        return
    lazy = is_lazy(param)
    shape = "an unknown shape" if lazy else f"shape {tuple(param.shape)}"
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


def can_be_trained(param: Tensor) -> bool:
    """Return False for dtypes that only store numbers (integers, float8): frozen, they are passed over, as in torch."""
    return param.dtype in _DTYPES


def check_storage(who: str, param: Tensor) -> None:
    """Raise ParameterError if no step can be taken on the numbers that a parameter holds."""
    if param.layout != torch.strided:
        raise ParameterError(
            f"{who}: every trained parameter must be dense, got one of {param.layout} and shape {tuple(param.shape)}. "
            "Pass param.to_dense(), or freeze it: param.requires_grad_(False)."
        )
    if param.dtype not in _DTYPES:
        raise ParameterError(
            f"{who}: every trained parameter must be of a dtype that PyTorch computes in, got {param.dtype} of shape "
            f"{tuple(param.shape)}. Keep it in bfloat16 or float32, or freeze it: param.requires_grad_(False)."
        )


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
