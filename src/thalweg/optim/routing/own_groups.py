"""Parameter groups of the user's own, divided among the rules of a routed model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.errors import ParameterError, ParameterTypeError, RoutingError, shown
from thalweg.optim.routing.assignment import Assignment, GroupOverrides
from thalweg.optim.settings import keywords
from thalweg.rules import Rule


def divide_groups(rule: Rule, assignments: Sequence[Assignment], groups: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the parts of the user's groups that share a rule, each as a group of its own.

    A setting in a group is that of its parameters, whatever their role: a weight decay also that of norms and biases.
    A learning rate is that of the first rule; the second one keeps its ratio. Other keys stay.

    Args:
        rule: The rule of the whole model.
        assignments: The parameters of the model.
        groups: Groups, as dictionaries, or parameters, as tensors or pairs of a name and a tensor.

    Returns:
        Groups with the names of the parameters in the model. Parameters in no group are left out.

    Raises:
        RoutingError: If a group has a parameter that is none of the model's.
        ParameterError: If a group has no parameters.
        ParameterTypeError: If something is no parameter.
    """
    by_id = {id(assignment.param): assignment for assignment in assignments}
    divided = []
    for number, group in enumerate(_as_groups(rule, groups), 1):
        own = {key: value for key, value in group.items() if key != "params"}
        settings = {key: value for key, value in own.items() if key in keywords.from_rule(rule)}
        rule_of_group = keywords.to_rule(rule, keywords.bind(rule, (), settings))
        parts: dict[GroupOverrides, list[tuple[str, Tensor]]] = {}
        for param in _params(group["params"], number):
            assignment = by_id.get(id(param))
            if assignment is None:
                raise RoutingError(
                    f"route: the parameters of group {number} must be the model's, got one of shape "
                    f"{tuple(param.shape)} that is not. Pass the whole model, with all modules that are trained."
                )
            parts.setdefault(_within(assignment.overrides, settings), []).append((assignment.name, param))
        divided += [
            {**own, "params": params, **keywords.from_rule(overrides.apply_to(rule_of_group))}
            for overrides, params in parts.items()
        ]
    return divided


def _within(overrides: GroupOverrides, settings: Mapping[str, Any]) -> GroupOverrides:
    """Return the overrides in a group that has these settings: its own weight decay is not scaled by roles."""
    if "weight_decay" not in settings:
        return overrides
    return GroupOverrides(overrides.settings, overrides.lr_scale, 1.0)


def _as_groups(rule: Rule, groups: Iterable[Any]) -> list[dict[str, Any]]:
    if isinstance(groups, Tensor | Mapping | str) or not isinstance(groups, Iterable):
        raise ParameterTypeError(f"route: groups must be a list of groups or of parameters, got {shown(groups)}.")
    entries = list(groups)
    if not any(isinstance(entry, Mapping) for entry in entries):
        return [{"params": entries}]
    for entry in entries:
        keywords.check_group(rule, entry)
    return entries


def _params(params: Any, number: int) -> list[Tensor]:
    entries = [params] if isinstance(params, Tensor) else list(params)
    tensors: list[Any] = [entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry for entry in entries]
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ParameterTypeError(f"route: group {number} must hold parameters, got {shown(tensor)}.")
    if not tensors:
        raise ParameterError(f"route: group {number} must hold parameters, got none. Was its iterator used before?")
    return tensors
