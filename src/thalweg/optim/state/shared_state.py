"""Shared state: the entries of `optimizer.state` that are of the whole model.

Every parameter that has state holds the same values, after every step. So a checkpoint holds them with each parameter,
and they survive if some parameters leave the model. Those that take part in a step compute the new values; all others
receive them afterwards. A parameter that joins late takes them over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.optim.settings import keywords
from thalweg.optim.state.state_entries import as_engine_tensor
from thalweg.rules import Rule

StateRecord = dict[str, Any]  # the entries of one parameter in `optimizer.state`
Peers = Callable[[], list[StateRecord]]  # the records of all parameters that share state with some parameter

MODEL_STEPS = "model_steps"  # the recurrent scalar that counts the steps of the optimizer


def part_of(rule: Rule, group: Mapping[str, Any]) -> str:
    """Return the name of the rule that steps a group, if the rule of the optimizer has parts; only they share state."""
    return str(group["rule"]) if rule.parts else ""


def shared_keys(rule: Rule, param: Tensor) -> list[str]:
    """Return the keys of the shared entries of a parameter."""
    return [declared.key for declared in rule.layout(as_engine_tensor(param).shape).values() if declared.shared]


def newest_entry(records: Iterable[StateRecord], key: str) -> Tensor | None:
    """Return the entry of the parameter with the most steps; None if no parameter has it."""
    candidates = [record for record in records if isinstance(record.get(key), Tensor)]
    return max(candidates, key=_num_steps)[key] if candidates else None


def newest_model_steps(records: Iterable[StateRecord]) -> float:
    """Return the number of steps of the optimizer; checkpoints of earlier versions have only that of each parameter."""
    return max((float(record.get(MODEL_STEPS, _num_steps(record))) for record in records), default=0.0)


def _num_steps(record: StateRecord) -> float:
    return float(record.get("step", 0.0))


def write(records: Sequence[StateRecord], key: str, value: Tensor) -> None:
    """Give records the value of a shared entry."""
    targets = [record for record in records if isinstance(record.get(key), Tensor)]
    if value.requires_grad:  # autograd records the steps: entries are replaced, never written
        for record in targets:
            record[key] = value.to(record[key].dtype)
    elif targets:
        entries = [as_engine_tensor(record[key]) for record in targets]
        torch._foreach_copy_(entries, [as_engine_tensor(value)] * len(entries))


def make_equal(rule: Rule, groups: Sequence[Mapping[str, Any]], state: Mapping[Any, StateRecord]) -> None:
    """Give all parameters of a loaded state the values of the one with the most steps.

    In checkpoints of earlier versions they may differ.

    Args:
        rule: The rule of the optimizer.
        groups: Its parameter groups, with the settings of the checkpoint.
        state: The loaded state, which is changed in place.
    """
    if not rule.traits.has_shared_state:
        return
    parts: dict[str, list[tuple[Rule, Tensor]]] = {}
    for group in groups:
        members = ((keywords.to_rule(rule, dict(group)), param) for param in group["params"] if state.get(param))
        parts.setdefault(part_of(rule, group), []).extend(members)
    for members_of_part in parts.values():
        records = [state[param] for _, param in members_of_part]
        for key in {key for member, param in members_of_part for key in shared_keys(member, param)}:
            newest = newest_entry(records, key)
            if newest is not None:
                write(records, key, newest.clone())


def check_settings(who: str, rules: Iterable[tuple[str, Rule]]) -> None:
    """Check that settings which enter shared state are equal in all groups of a part.

    Args:
        who: The name of the optimizer, for the error message.
        rules: The part and the rule of each group.

    Raises:
        SettingError: If a setting differs.
    """
    expected: dict[str, dict[str, Any]] = {}
    for part, rule in rules:
        settings = rule.model_settings()
        first = expected.setdefault(part, settings)
        for name in [*first, *(name for name in settings if name not in first)]:
            values = [each.get(name, rule.settings()[name]) for each in (first, settings)]
            if values[0] != values[1]:
                raise SettingError(
                    f"{who}: all groups must have the same {name}, since it enters values of the whole model, got "
                    f"{values[0]!r} and {values[1]!r}. Pass it to the optimizer, not to a group."
                )
