"""From a saved checkpoint to the groups and the state that an optimizer can load."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol

from torch import Tensor

from thalweg.errors import ParameterError
from thalweg.optim.checkpoints.evaluation import EVALUATING, check_evaluation
from thalweg.optim.checkpoints.origins import Groups, Origin, identify
from thalweg.optim.checkpoints.parameter_names import same_parameter
from thalweg.optim.checkpoints.records import RecordReader, step_count
from thalweg.optim.settings import keywords
from thalweg.optim.state import shared_state
from thalweg.rules import Rule

Warn = Callable[[str, str], None]  # of a topic and a message


class _Loading(Protocol):
    """An optimizer that loads a checkpoint."""

    rule: ClassVar[Rule]
    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]


def prepare(optimizer: _Loading, saved: Any, warn: Warn) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Check a checkpoint and return it in the form that an optimizer can load.

    Args:
        optimizer: The optimizer, which stays as it is.
        saved: The checkpoint, as ``state_dict()`` returns it.
        warn: Called with a topic and a message if an entry is missing that starts anew.

    Returns:
        The checkpoint with complete groups and without state, and the state of each parameter.

    Raises:
        ParameterError: If the checkpoint does not fit the optimizer.
        SettingError: If a saved setting is out of its bounds.
    """
    rule, defaults, groups = optimizer.rule, optimizer.defaults, optimizer.param_groups
    _check_structure(rule, groups, saved)
    check_evaluation(rule, saved)
    origin = identify(rule, groups, saved)
    saved_groups = [_complete(rule, defaults, group) for group in origin.groups]
    if rule.parts:  # the group of a parameter decides which rule steps it
        _check_param_names(rule, groups, saved_groups)
    state = _prepare_state(rule, groups, saved_groups, origin, warn)
    # Without the state: torch would copy and cast it, and the copy would be replaced.
    return {**saved, "param_groups": saved_groups, "state": {}}, state


def as_dict(rule: Rule, saved: Any) -> dict[str, Any]:
    """Return a checkpoint as a dictionary of its own. Raise ParameterError if it is no mapping."""
    if not isinstance(saved, Mapping):
        raise ParameterError(
            f"{rule.name}: a checkpoint must be a dictionary, got {type(saved).__name__}. "
            "Pass the result of state_dict()."
        )
    return dict(saved)


def _check_structure(rule: Rule, groups: Groups, saved: Any) -> None:
    """Raise ParameterError unless a checkpoint has groups of as many parameters as the optimizer, and state of them."""
    saved = as_dict(rule, saved)
    if not isinstance(saved.get("param_groups"), list) or not isinstance(saved.get("state"), Mapping):
        raise ParameterError(
            f"{rule.name}: a checkpoint must hold 'param_groups' and 'state', got {', '.join(map(repr, saved))}. "
            "Pass the result of state_dict()."
        )
    saved_groups = saved["param_groups"]
    if len(groups) != len(saved_groups):
        raise ParameterError(
            f"{rule.name}: the checkpoint must have {len(groups)} parameter groups as the optimizer, got "
            f"{len(saved_groups)}. Create the optimizer with the groups of the one that was saved."
        )
    param_of_index: dict[Any, Tensor] = {}
    for number, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        indices = saved_group.get("params") if isinstance(saved_group, Mapping) else None
        if not isinstance(indices, list | tuple) or not all(isinstance(index, int | str) for index in indices):
            raise ParameterError(
                f"{rule.name}: param_groups[{number}] of a checkpoint must hold a list of numbers or names under "
                f"'params', got {saved_group!r:.80}. Pass the result of state_dict()."
            )
        if len(indices) != len(group["params"]):
            raise ParameterError(
                f"{rule.name}: param_groups[{number}] of the checkpoint must have {len(group['params'])} parameters as "
                f"the group of the optimizer, got {len(indices)}. Load the checkpoint of this model."
            )
        for index, param in zip(indices, group["params"], strict=True):
            if param_of_index.setdefault(index, param) is not param:
                raise ParameterError(
                    f"{rule.name}: every parameter of a checkpoint must have a number of its own, got {index!r} twice. "
                    "Pass the result of state_dict()."
                )


def _complete(rule: Rule, defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved group with defaults for missing settings and without the keys that only torch's groups have."""
    dropped = {*keywords.TORCH_ONLY, *([EVALUATING] if rule.traits.has_eval_params else [])}
    own_settings = {key: value for key, value in group.items() if key not in dropped}
    completed = {**defaults, **own_settings}
    return completed | keywords.check_common(rule, completed)


def _check_param_names(rule: Rule, groups: Groups, saved_groups: Groups) -> None:
    """Raise ParameterError if saved groups hold other parameters, as far as both have names."""
    for number, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        names, saved_names = group.get("param_names", []), saved_group.get("param_names", [])
        if not isinstance(saved_names, list | tuple) or len(saved_names) not in (0, len(group["params"])):
            raise ParameterError(
                f"{rule.name}: param_names of param_groups[{number}] must be a list of {len(group['params'])} names, "
                f"got {saved_names!r:.80}. Pass the result of state_dict()."
            )
        for name, saved_name in zip(names, saved_names, strict=False):
            if not same_parameter(name, saved_name):
                raise ParameterError(
                    f"{rule.name}: the checkpoint must be one of the same routing, got {saved_name} where group "
                    f"{number} has {name}. Route the model as it was routed when it was saved."
                )


def _prepare_state(
    rule: Rule, groups: Groups, saved_groups: Sequence[dict[str, Any]], origin: Origin, warn: Warn
) -> dict[Any, Any]:
    """Return the state of each parameter, copied to its device; the dtype is the one that was saved."""
    rules = [keywords.to_rule(rule, group) for group in saved_groups]
    parts = [shared_state.part_of(rule, group) for group in saved_groups]
    shared_state.check_settings(rule.name, zip(parts, rules, strict=True))
    readers = [
        RecordReader(rule.name, group_rule, group, _max_step(group, origin.state), origin, warn)
        for group_rule, group in zip(rules, saved_groups, strict=True)
    ]
    pairs = [
        zip(saved_group["params"], group["params"], strict=True)
        for group, saved_group in zip(groups, saved_groups, strict=True)
    ]
    param_of_index = dict(chain.from_iterable(pairs))
    reader_of_index = {
        index: reader for reader, group in zip(readers, saved_groups, strict=True) for index in group["params"]
    }
    state: dict[Any, Any] = defaultdict(dict)
    for index, record in origin.state.items():
        if index in param_of_index:
            param = param_of_index[index]
            if prepared := reader_of_index[index].read(record, param):
                state[param] = prepared
        elif origin.keeps_own_entries and not isinstance(index, int):  # an entry of the user for the whole optimizer
            state[index] = record
        else:
            raise ParameterError(
                f"{rule.name}: the state of a checkpoint must be that of its parameters, got state of {index!r}, which "
                "no group has. Pass the result of state_dict()."
            )
    settings = zip(groups, saved_groups, strict=True)
    shared_state.make_equal(rule, [{**saved, "params": group["params"]} for group, saved in settings], state)
    return state


def _max_step(group: Mapping[str, Any], state: Mapping[Any, Any]) -> int:
    """Return the number of steps of a group, as far as its records say."""
    records = [state.get(index) for index in group["params"]]
    counts = [step_count(record.get("step")) for record in records if isinstance(record, Mapping)]
    return max((count for count in counts if count is not None), default=0)
