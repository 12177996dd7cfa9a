"""Parameter checks: the conditions that a parameter must meet to be given to an optimizer."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.core import precision, shards
from thalweg.errors import ParameterError, ParameterTypeError, shown
from thalweg.rules import Rule
from thalweg.rules.core.traits import Traits

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
        _check_shape(who, rule, param)
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


def _check_shape(who: str, rule: Rule, param: Tensor) -> None:
    shape = param.shape
    if len(shape) < rule.traits.min_dims:
        remedy = "thalweg.optim.route(model, ...) uses AdamW for the others."
        if shards.is_flattened(param):
            remedy = f"FullyShardedDataParallel flattens parameters. {_WHOLE}"
        raise ParameterError(
            f"{who}: every parameter must have {rule.traits.min_dims} dimensions or more, got one of shape "
            f"{tuple(shape)}. {remedy}"
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


class _Condition(NamedTuple):
    """A condition on the rule of parameters that are divided over processes.

    Attributes:
        holds: True if a rule with these traits meets it.
        must: The condition, in words.
        remedy: What to do if it does not hold.
    """

    holds: Callable[[Traits], bool]
    must: str
    remedy: str


def _is_elementwise(traits: Traits) -> bool:
    return traits.scope == "elementwise" and traits.needs in ("gradient", "curvature")


def _needs_no_whole(traits: Traits) -> bool:
    return traits.supports_shards and not traits.needs_whole_matrices


_WHOLE = (
    "Use DistributedDataParallel, where parameters stay whole, or an elementwise rule such as AdamW. "
    "docs/running/distributed.md says which rules are right where."
)
_SUMMED = (
    "Shard the model with torch.distributed.fsdp.fully_shard instead, where sums cover all processes, or use an "
    "elementwise rule such as AdamW."
)
_UNDIVIDED = "Use the optimizer itself, with DistributedDataParallel or fully_shard."
_NO_RANDOM_NUMBERS = _Condition(
    lambda traits: not traits.uses_random_numbers,
    "must draw no random numbers, since they follow the positions in the whole model",
    "Use DistributedDataParallel, or a rule without them.",
)
_OF_DTENSOR = (_Condition(_needs_no_whole, "must need no whole parameters", _WHOLE), _NO_RANDOM_NUMBERS)
_OF_FLAT_PARAMETER = (
    _Condition(lambda traits: _is_elementwise(traits) or not _needs_no_whole(traits), "must be elementwise", _SUMMED),
    _Condition(_is_elementwise, "must be elementwise", _WHOLE),
    _NO_RANDOM_NUMBERS,
)
_WITHIN_TENSORS = (
    _Condition(lambda traits: traits.needs == "gradient", "must need gradients alone", _UNDIVIDED),
    _Condition(lambda traits: traits.scope != "model", "must not look at the whole model", _UNDIVIDED),
)
_OF_RANK = (
    *_WITHIN_TENSORS,
    _Condition(
        lambda traits: not traits.has_eval_params,
        "must have no parameters for evaluation, since other ranks would not get them",
        _UNDIVIDED,
    ),
    _NO_RANDOM_NUMBERS,
)

# The functions of torch that create optimizers of a part of a model, by module and name.
_ZERO, _IN_BACKWARD = "zero_redundancy_optimizer", "apply_optimizer_in_backward"
_DIVIDERS: dict[tuple[str, str], tuple[str, tuple[_Condition, ...]]] = {
    (f"torch.distributed.optim.{_ZERO}", "_init_local_optimizer"): ("a rank of ZeroRedundancyOptimizer", _OF_RANK),
    (f"torch.distributed.optim.{_ZERO}", "add_param_group"): ("a rank of ZeroRedundancyOptimizer", _OF_RANK),
    (f"torch.distributed.optim.{_IN_BACKWARD}", "_apply_optimizer_in_backward_to_param"): (
        "a single parameter that steps during the backward pass",
        _WITHIN_TENSORS,
    ),
}


def check_placement(
    who: str, rule: Rule, params: Sequence[Tensor], divided: Sequence[Tensor], rounding: precision.Rounding
) -> None:
    """Check that the steps of a rule are right for parameters that are divided over processes.

    The step of a part must equal that part of the step of the whole model. Elementwise rules have this property. Rules
    that sum over tensors have it where the parameter says how it is split, as a DTensor does.

    Args:
        who: The name of the optimizer, for the error message.
        rule: The rule at the settings of the parameters' group.
        params: The parameters.
        divided: The parameters of the whole optimizer that may be divided (`shards.divided`).
        rounding: The rounding of the parameters' group.

    Raises:
        ParameterError: If a step would be wrong.
    """
    if not divided:
        return
    for param in divided:
        _check_dtensor(who, param)
    flat = set(map(id, shards.flat_pieces(divided)))
    pieces = [param for param in params if id(param) in flat]
    split = [param for param in params if shards.is_split(param)]
    for parts, description, conditions in (
        (split, "a sharded DTensor", _OF_DTENSOR),
        (pieces, "a flat parameter of FullyShardedDataParallel", _OF_FLAT_PARAMETER),
    ):
        if parts:
            got = f" and a part of shape {tuple(parts[0].shape)}"
            _check_conditions(who, rule, description, conditions, got)
            _check_rounding_of_part(who, parts, description, rounding)


def check_caller(who: str, rule: Rule, params: Sequence[Tensor], rounding: precision.Rounding) -> None:
    """Check that the steps of a rule are right if a function of torch gives this optimizer only a part of a model.

    Such an optimizer cannot see that there are other parameters. Its caller is the only evidence.

    Args:
        who: The name of the optimizer, for the error message.
        rule: The rule at the settings of the parameters' group.
        params: The parameters.
        rounding: The rounding of the parameters' group.

    Raises:
        ParameterError: If a step would be wrong.
    """
    frame = inspect.currentframe()
    while frame := frame and frame.f_back:
        divider = _DIVIDERS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        if divider and getattr(frame.f_locals.get("self"), "world_size", 2) > 1:
            description, conditions = divider
            _check_conditions(who, rule, description, conditions)
            _check_rounding_of_part(who, params, description, rounding)
            return


def _check_rounding_of_part(who: str, params: Sequence[Tensor], description: str, rounding: precision.Rounding) -> None:
    if any(precision.effective_rounding(rounding, param.dtype) == "stochastic" for param in params):
        raise ParameterError(
            f"{who}: the rounding of {description} must draw no random numbers, got 'stochastic'. "
            'Use rounding="kahan".'
        )


def _check_dtensor(who: str, param: Tensor) -> None:
    if shards.is_replaced(param):
        raise ParameterError(
            f"{who}: every parameter must belong to its model, got one of shape {tuple(param.shape)} that fully_shard "
            "has replaced by a DTensor. Create the optimizer from model.parameters() after fully_shard(model)."
        )
    if shards.has_partial_values(param):
        raise ParameterError(
            f"{who}: a DTensor must be split or replicated over processes, got one of shape {tuple(param.shape)} that "
            "holds the terms of a sum. Call redistribute() on it first."
        )


def _check_conditions(who: str, rule: Rule, description: str, conditions: Iterable[_Condition], got: str = "") -> None:
    # Another rule may take over at a later step (`Switched`), when an error would end a training.
    for stage in (rule, rule.for_step(sys.maxsize)):
        for condition in conditions:
            if not condition.holds(stage.traits):
                raise ParameterError(
                    f"{who}: the rule of {description} {condition.must}, got {stage.name}{got}. {condition.remedy}"
                )
