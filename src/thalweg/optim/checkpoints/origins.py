"""Origins: the optimizer that saved a checkpoint, known by the keys of its groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch

from thalweg.errors import ParameterError
from thalweg.optim.checkpoints.conversions import convert
from thalweg.optim.checkpoints.evaluation import EVALUATING
from thalweg.optim.settings import keywords
from thalweg.rules import Rule

Groups = Sequence[Mapping[str, Any]]

# What torch's learning-rate schedulers and `SWALR` write into groups.
_SCHEDULER_KEYS = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"})
_STRUCTURE = frozenset({"params", "param_names", EVALUATING})
# Our rules that torch has as one class with `decoupled_weight_decay=True`.
_DECOUPLED = {"AdamW": "AdamW", "NAdamW": "NAdam", "RAdamW": "RAdam"}
# Rules whose class in torch saves no step count: a parameter with state has stepped before.
_WITHOUT_STEPS = frozenset({"SGD", "Muon"})


@dataclass(frozen=True)
class Origin:
    """A checkpoint whose origin is known.

    Attributes:
        groups: The saved groups, with settings under our keywords.
        state: The saved state, under our keys.
        keeps_own_entries: True if it is one of ours, whose other keys are the user's own.
        has_steps: True if every record must have a step count.
    """

    groups: Groups
    state: Mapping[Any, Any]
    keeps_own_entries: bool = False
    has_steps: bool = True


def identify(rule: Rule, groups: Groups, saved: Mapping[str, Any]) -> Origin:
    """Return a checkpoint with its origin.

    Args:
        rule: The rule of the optimizer that loads it.
        groups: The groups of this optimizer.
        saved: The checkpoint.

    Raises:
        ParameterError: If it was saved by another algorithm.
    """
    saved_groups, saved_rule = saved["param_groups"], saved.get("rule")
    if saved_rule is not None:
        if saved_rule != rule.name:
            raise ParameterError(
                f"{rule.name}: the checkpoint must be one of {rule.name}, got one of {saved_rule!s:.80}. "
                f"Load it into {saved_rule!s:.80}."
            )
        for number, group in enumerate(saved_groups):
            _check_own_group(rule, number, group)
        return Origin(saved_groups, saved["state"], keeps_own_entries=True)
    if (converted := convert(rule.name, list(keywords.members(rule)), saved)) is not None:
        for group, unknown_keys in zip(groups, converted.unknown_keys, strict=True):
            known = {*_STRUCTURE, *_SCHEDULER_KEYS, *group}
            _check_other_keys(rule, [key for key in unknown_keys if key not in known])
        return Origin(converted.groups, converted.state)
    for group, saved_group in zip(groups, saved_groups, strict=True):
        _check_unnamed_group(rule, group, saved_group)
    return Origin(saved_groups, saved["state"], has_steps=rule.name not in _WITHOUT_STEPS)


def _check_own_group(rule: Rule, number: int, group: Mapping[str, Any]) -> None:
    if missing := [keyword for keyword in (*keywords.members(rule), "maximize") if keyword not in group]:
        raise ParameterError(
            f"{rule.name}: param_groups[{number}] of a checkpoint must hold every setting, got none of "
            f"{', '.join(missing)}. Pass the result of state_dict()."
        )


def _torch_class(rule: Rule) -> str | None:
    """Return the name of torch's class with this algorithm; None if there is none."""
    name = _DECOUPLED.get(rule.name, rule.name)
    return name if keywords.torch_defaults(name) else None


def _check_unnamed_group(rule: Rule, group: Mapping[str, Any], saved_group: Mapping[str, Any]) -> None:
    """Raise ParameterError if a saved group is not that of torch's class, nor one of ours.

    Without the name of its rule come checkpoints of torch, and our own through `torch.distributed.checkpoint`.
    """
    torch_class = _torch_class(rule)
    if rule.traits.needs == "closure" and "maximize" not in saved_group:  # torch's LBFGS has no `maximize`, ours has
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of thalweg's, got one of torch's, which keeps another history. "
            "Start without it: a few iterations rebuild the history."
        )
    if torch_class:
        _check_decay(rule, saved_group)
    torch_defaults = keywords.torch_defaults(torch_class) if torch_class else None
    missing = [
        keyword
        for keyword in (*keywords.members(rule), *(() if torch_class else ("maximize",)))
        if keyword not in saved_group and (torch_defaults is None or keyword in torch_defaults)  # others are ours alone
    ]
    if missing:
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of {rule.name}, got one without {', '.join(missing)}. "
            "Load it into the optimizer that saved it."
        )
    known = {*keywords.members(rule), *keywords.COMMON, *_STRUCTURE, *_SCHEDULER_KEYS, *group}
    known |= {*keywords.TORCH_ONLY} if torch_class else {"capturable"}
    _check_other_keys(rule, [key for key in saved_group if key not in known])


def _check_decay(rule: Rule, saved_group: Mapping[str, Any]) -> None:
    """Raise ParameterError if a group of torch's has the other form of weight decay."""
    is_decoupled = rule.name in _DECOUPLED
    # Old versions of torch have no such key. Their AdamW is a class of its own.
    assumed = is_decoupled and (rule.name == "AdamW" or "foreach" not in saved_group)
    if bool(saved_group.get("decoupled_weight_decay", assumed)) != is_decoupled:
        forms = ("decoupled weight decay", "weight decay as an L2 penalty")
        required, got = forms if is_decoupled else reversed(forms)
        sibling = rule.name.removesuffix("W") if is_decoupled else f"{rule.name}W"
        raise ParameterError(f"{rule.name}: the checkpoint must have {required}, got {got}. Load it into {sibling}.")


def _check_other_keys(rule: Rule, keys: list[Any]) -> None:
    if keys:
        is_torchs = any(key in _all_torch_keywords() for key in keys)
        remedy = "" if is_torchs else " A key of your own must be in the groups of this optimizer, too."
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of {rule.name}, got one with {', '.join(map(str, keys))}, which "
            f"it does not use. Load it into the optimizer that saved it.{remedy}"
        )


@cache
def _all_torch_keywords() -> frozenset[str]:
    """Return the settings of all of torch's optimizers."""
    kinds = [value for value in vars(torch.optim).values() if isinstance(value, type)]
    names = [kind.__name__ for kind in kinds if issubclass(kind, torch.optim.Optimizer)]
    return frozenset(chain.from_iterable(map(keywords.torch_defaults, names))) - {"params", "defaults"}
