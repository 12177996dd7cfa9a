"""Checkpoints: a saved state is checked as a whole and prepared before anything of an optimizer is changed."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.optim import keywords, shared_state
from thalweg.optim.state_entries import as_engine_tensor, check_shape
from thalweg.rules import Rule

Groups = Sequence[Mapping[str, Any]]

# While an optimizer evaluates, the key of the value of a parameter that is trained, in its state; and the key of saved
# groups that says that it evaluates.
TRAIN_PARAM = "train_param"
EVALUATING = "evaluating"


def prepare(
    rule: Rule, defaults: Mapping[str, Any], groups: Groups, saved: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Check a checkpoint and return it in the form that an optimizer with these groups can load.

    torch itself refuses groups of another number or size.

    Args:
        rule: The rule of the optimizer.
        defaults: The default settings of the optimizer.
        groups: The parameter groups of the optimizer.
        saved: The checkpoint, as ``state_dict()`` returns it.

    Returns:
        The checkpoint with complete groups, and the state of each parameter.

    Raises:
        ParameterError: If the checkpoint does not fit the optimizer.
        SettingError: If a saved setting is out of its bounds.
    """
    if not isinstance(saved.get("param_groups"), list) or not isinstance(saved.get("state"), Mapping):
        raise ParameterError(
            f"{rule.name}: a checkpoint must hold 'param_groups' and 'state', got {', '.join(map(repr, saved))}. "
            "Pass the result of state_dict()."
        )
    saved_rule = saved.get("rule")
    if saved_rule not in (None, rule.name):
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of {rule.name}, got one of {saved_rule}. "
            f"Load it into {saved_rule}."
        )
    if saved_rule is None:
        for group in saved["param_groups"]:
            _check_torch_group(rule, group)
    _check_evaluation(rule, saved)
    saved_groups = [_complete(rule, defaults, group) for group in saved["param_groups"]]
    if rule.parts:  # the group of a parameter decides which rule steps it
        _check_param_names(rule, groups, saved_groups)
    return {**saved, "param_groups": saved_groups}, _prepare_state(rule, groups, saved_groups, saved["state"])


def with_mode(state_dict: dict[str, Any], *, evaluating: bool) -> dict[str, Any]:
    """Return a checkpoint that says in each group whether the optimizer evaluates.

    Its records are copies: when the optimizer trains again it removes an entry from its own.
    """
    return state_dict | {
        "state": {index: dict(record) for index, record in state_dict["state"].items()},
        "param_groups": [{**group, EVALUATING: evaluating} for group in state_dict["param_groups"]],
    }


def is_evaluating(saved: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint was saved while the optimizer evaluated."""
    return bool(_evaluating_groups(saved))


def _evaluating_groups(saved: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [group for group in saved["param_groups"] if isinstance(group, Mapping) and group.get(EVALUATING)]


def _check_evaluation(rule: Rule, saved: Mapping[str, Any]) -> None:
    """Raise ParameterError if a checkpoint was saved in an evaluation, and the values to train on are not in it."""
    for index in chain.from_iterable(group.get("params", ()) for group in _evaluating_groups(saved)):
        record = saved["state"].get(index)
        if isinstance(record, Mapping) and record and not isinstance(record.get(TRAIN_PARAM), Tensor):
            raise ParameterError(
                f"{rule.name}: a checkpoint that was saved between eval() and train() must hold {TRAIN_PARAM!r} for "
                f"each parameter, got {', '.join(map(repr, record))}. If only the entries of this optimizer's own "
                "state_dict() are read from a file, call eval() before it."
            )


def _prepare_state(
    rule: Rule, groups: Groups, saved_groups: Sequence[dict[str, Any]], saved: Mapping[Any, Any]
) -> dict[Any, Any]:
    """Return the state of each parameter, copied to its device; the dtype is the one that was saved."""
    rules = [keywords.to_rule(rule, group) for group in saved_groups]
    parts = [shared_state.part_of(rule, group) for group in saved_groups]
    shared_state.check_settings(rule.name, zip(parts, rules, strict=True))
    state: dict[Any, Any] = defaultdict(dict)
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved_groups]:
        return state  # torch refuses the checkpoint
    param_of_index = dict(zip(_params(saved_groups), _params(groups), strict=True))
    group_of_index = {
        index: (group_rule, group)
        for group_rule, group in zip(rules, saved_groups, strict=True)
        for index in group["params"]
    }
    for index, record in saved.items():
        if index in param_of_index:
            param = param_of_index[index]
            _check_record(*group_of_index[index], param, record)
            state[param] = {key: _copied(key, value, param) for key, value in record.items()}
        else:
            state[index] = record
    pairs = zip(groups, saved_groups, strict=True)
    shared_state.make_equal(rule, [{**settings, "params": group["params"]} for group, settings in pairs], state)
    return state


def _params(groups: Groups) -> list[Any]:
    return list(chain.from_iterable(group["params"] for group in groups))


def _complete(rule: Rule, defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved group with defaults for missing settings and without the keys that only torch's groups have."""
    if rule.traits.needs == "closure" and "maximize" not in group:  # torch's LBFGS has no `maximize`, ours has
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of thalweg's, got one of torch's, which keeps another history. "
            "Start without it: a few iterations rebuild the history."
        )
    if group.get("decoupled_weight_decay") and rule.name == "Adam":  # torch's AdamW has the key, always true
        raise ParameterError(
            f"{rule.name}: the checkpoint must have weight decay as an L2 penalty, got decoupled weight decay. "
            "Load it into AdamW."
        )
    ours = {key: value for key, value in group.items() if key not in (*keywords.TORCH_ONLY, EVALUATING)}
    completed = {**defaults, **ours}
    keywords.check_common(rule, completed)
    return completed


def _check_torch_group(rule: Rule, group: Mapping[str, Any]) -> None:
    """Raise ParameterError if a group without the name of its rule was saved by another algorithm."""
    torch_defaults = keywords.torch_defaults(rule.name)
    missing = [
        keyword
        for keyword in keywords.members(rule)
        if keyword not in group and (not torch_defaults or keyword in torch_defaults)  # others are ours alone
    ]
    known = {*keywords.members(rule), *keywords.COMMON}
    unexpected = [keyword for keyword in group if keyword in _all_torch_keywords() and keyword not in known]
    if missing or unexpected:
        got = f"without {', '.join(missing)}" if missing else f"with {', '.join(unexpected)}"
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of {rule.name}, got one {got}. "
            "Load it into the optimizer that saved it."
        )


@cache
def _all_torch_keywords() -> frozenset[str]:
    """Return the settings of all of torch's optimizers."""
    kinds = [value for value in vars(torch.optim).values() if isinstance(value, type)]
    names = [kind.__name__ for kind in kinds if issubclass(kind, torch.optim.Optimizer)]
    settings = frozenset(chain.from_iterable(map(keywords.torch_defaults, names)))
    return settings - {"params", "defaults", *keywords.TORCH_ONLY}


def _check_param_names(rule: Rule, groups: Groups, saved_groups: Groups) -> None:
    """Raise ParameterError if saved groups hold other parameters, as far as both have names."""
    for number, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=False)):
        names, saved_names = group.get("param_names", []), saved_group.get("param_names", [])
        for name, saved_name in zip(names, saved_names, strict=False):
            if name != saved_name:
                raise ParameterError(
                    f"{rule.name}: the checkpoint must be one of the same routing, got {saved_name} where group "
                    f"{number} has {name}. Route the model as it was routed when it was saved."
                )


def _check_record(rule: Rule, group: Mapping[str, Any], param: Tensor, record: Any) -> None:
    """Raise ParameterError if a record cannot be the state of a parameter. `rule` has the settings of the group."""
    if not isinstance(record, Mapping):
        raise ParameterError(
            f"{rule.name}: the state of a parameter must be a dictionary, got {type(record).__name__}. "
            "Pass the result of state_dict()."
        )
    for key in ("step", *rule.traits.recurrent_scalars):
        minimum = 0.0 if key == "step" else -math.inf
        if record.get(key) is not None and not _is_finite_number(record[key], minimum):
            raise ParameterError(
                f"{rule.name}: state[{key!r}] must be one finite number, got {record[key]!r}. "
                "Pass the result of state_dict()."
            )
    rounding = precision.effective_rounding(group.get("rounding", "nearest"), as_engine_tensor(param).dtype)
    shape = as_engine_tensor(param).shape
    if isinstance(train_param := record.get(TRAIN_PARAM), Tensor):
        check_shape(as_engine_tensor(train_param), shape, TRAIN_PARAM)
    for declared in Program(rule, rounding=rounding).layout(shape).values():
        entry = record.get(declared.key)
        if isinstance(entry, Tensor) and entry.layout == torch.strided:
            check_shape(as_engine_tensor(entry), declared.shape(shape), declared.key)


def _is_finite_number(value: Any, minimum: float) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= minimum
    except (TypeError, ValueError, RuntimeError):
        return False


def _copied(key: str, value: Any, param: Tensor) -> Any:
    """Return a copy of a saved entry, as the state holds it. Old checkpoints of torch count steps in plain numbers."""
    if key == "step":
        return torch.as_tensor(value, dtype=torch.float64, device="cpu").clone()
    return value.to(device=param.device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
