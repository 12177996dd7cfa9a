"""Between a rule's hyperparameters and the keywords of `torch.optim`.

They have the same names, except that hyperparameters which declare a shared `keyword` travel as one tuple:
`beta1` and `beta2` are `betas`. Whatever reads `param_groups` (schedulers, checkpoints) sees torch's form.
"""

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor

from thalweg.engine.backends import Backend
from thalweg.engine.core.precision import Rounding
from thalweg.errors import KeywordError, ParameterError, SettingError, nearest
from thalweg.rules import Hyper, Rule

# How torch.optim chooses among its own kernels. The first two change no result, and `backend` chooses here:
# they are taken, so that a change of import is enough, and ask for nothing.
TORCH_KERNELS = ("foreach", "fused", "capturable", "differentiable")
# What groups of torch's own optimizers hold besides, and ours do not.
TORCH_ONLY = (*TORCH_KERNELS, "decoupled_weight_decay")
# What every optimizer takes besides the settings of its rule, with its default.
_TORCH_NAMES = {"AdaGrad": "Adagrad"}  # where torch spells it otherwise
COMMON: dict[str, Any] = {"maximize": False, "rounding": "nearest", "seed": 0, "backend": None}


@cache
def members(rule: Rule) -> dict[str, list[str]]:
    """Each keyword, with the hyperparameters it carries, in torch's order."""
    return names_by_keyword(rule.hypers())


def names_by_keyword(hypers: Mapping[str, Hyper]) -> dict[str, list[str]]:
    """Each keyword, with the settings it carries, in the order they are declared."""
    found: dict[str, list[str]] = {}
    for name, declared in hypers.items():
        found.setdefault(declared.keyword or name, []).append(name)
    return found


def from_rule(rule: Rule) -> dict[str, Any]:
    """The keywords of a rule's settings."""
    return _values_by_keyword(members(rule), rule.settings())


def values_by_keyword(hypers: Mapping[str, Hyper], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of settings that are declared so."""
    return _values_by_keyword(names_by_keyword(hypers), settings)


def _values_by_keyword(members: Mapping[str, list[str]], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        keyword: settings[names[0]] if names == [keyword] else tuple(settings[name] for name in names)
        for keyword, names in members.items()
    }


def settings(rule: Rule, group: dict[str, Any]) -> dict[str, Any]:
    """The settings a parameter group holds; what else the group holds is left alone.

    A tensor is read, never kept: schedulers write to it in place. None stands for the default where torch says so.
    """
    found: dict[str, Any] = {}
    for keyword, names in members(rule).items():
        values = group[keyword]
        if names == [keyword]:
            values = (values,)
        elif not isinstance(values, tuple | list) or len(values) != len(names):
            raise SettingError(f"{rule.name}: {keyword} must hold {len(names)} numbers, got {values!r}.")
        for name, value in zip(names, values, strict=True):
            if value is None and _takes_none(rule.name, keyword):
                value = rule.hypers()[name].default
            found[name] = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return found


def _takes_none(name: str, keyword: str) -> bool:
    """Whether torch's optimizer of this name has None as a default of the keyword."""
    default = torch_defaults(name).get(keyword)
    return keyword in torch_defaults(name) and None in (default if isinstance(default, tuple) else (default,))


@cache
def torch_defaults(name: str) -> dict[str, Any]:
    """Return the keywords of torch's optimizer of this name with their defaults; none if torch has no such class."""
    kind = getattr(torch.optim, _TORCH_NAMES.get(name, name), None)
    return {key: parameter.default for key, parameter in inspect.signature(kind).parameters.items()} if kind else {}


def to_rule(rule: Rule, group: dict[str, Any]) -> Rule:
    """The rule with the settings of a parameter group."""
    return rule.with_(**settings(rule, group))


def bind(rule: Rule, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The settings that a call makes, with the defaults of the rest. An unknown keyword raises KeywordError."""
    defaults = from_rule(rule)
    if len(args) > len(defaults):
        raise KeywordError(f"{rule.name}: at most {len(defaults)} settings may be given by position, got {len(args)}.")
    by_position = dict(zip(defaults, args, strict=False))
    for keyword in given:
        if keyword in by_position:
            raise KeywordError(f"{rule.name}: {keyword} must be given once, got it by position and by name.")
        if keyword not in defaults:
            known = [*defaults, *COMMON]
            raise KeywordError(
                f"{rule.name}: the settings are {', '.join(known)}, got {keyword!r}. {nearest(keyword, known)}"
            )
    return defaults | by_position | given


def take_torchs(rule: Rule, given: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call or a group without those that choose among torch's kernels, once they are checked."""
    if given.get("foreach") and given.get("fused"):
        raise KeywordError(f"{rule.name}: foreach and fused must not both be True. Leave both out.")
    if given.get("capturable"):
        raise KeywordError(
            f"{rule.name}: capturable must be left out, since steps are not captured in CUDA graphs, "
            f"got capturable={given['capturable']!r}."
        )
    if given.get("differentiable") and rule.traits.needs == "closure":
        raise KeywordError(
            f"{rule.name}: differentiable must be left out, since a search is not differentiated, "
            f"got differentiable={given['differentiable']!r}."
        )
    return {keyword: value for keyword, value in given.items() if keyword not in TORCH_KERNELS}


def check_common(rule: Rule, group: dict[str, Any]) -> None:
    """Refuse what is no way of rounding, and no seed."""
    who, rounding, seed = rule.name, group.get("rounding", "nearest"), group.get("seed", 0)
    if rounding not in get_args(Rounding):
        raise SettingError(f"{who}: rounding must be one of {', '.join(get_args(Rounding))}, got {rounding!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise SettingError(f"{who}: seed must be a whole number of at most 64 bits, got {seed!r}.")


def check_backend(rule: Rule, backend: Any) -> None:
    """Raise SettingError unless this is the name of a backend."""
    if backend is not None and backend not in get_args(Backend):
        raise SettingError(
            f"{rule.name}: backend must be one of {', '.join(get_args(Backend))} or None, got {backend!r}."
        )


def check_group(rule: Rule, group: dict[str, Any]) -> None:
    """Refuse a parameter group without parameters, and a keyword that was meant to be another.

    As in torch a group may hold keys of the user's own (`name`, `initial_lr`): only near misses are errors.
    """
    if "params" not in group:
        raise ParameterError(f"{rule.name}: a parameter group must have the key 'params', got {sorted(group)}.")
    if "backend" in group:
        raise KeywordError(
            f"{rule.name}: backend must be given to the optimizer, not to a group, got {group['backend']!r}."
        )
    known = [*from_rule(rule), *COMMON]
    for key in group.keys() - {"params", *known}:
        close = ["lr"] if key == "learning_rate" else get_close_matches(key, known, n=1, cutoff=0.85)
        if close and not key.startswith("no_"):  # a mark of one's own, as `no_weight_decay`
            raise KeywordError(f"{rule.name}: a parameter group has the key {key!r}. Did you mean {close[0]}?")


def check_differentiable(rule: Rule, groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse settings that ask for gradients of their own: they are read as numbers."""
    for group in groups:
        for keyword in members(rule):
            values = group[keyword] if isinstance(group[keyword], tuple | list) else [group[keyword]]
            if any(isinstance(value, Tensor) and value.requires_grad for value in values):
                raise ParameterError(
                    f"{rule.name}: settings must not require gradients, which end at them, got {keyword} that does. "
                    "Detach it; gradients reach parameters and gradients of before the step."
                )
