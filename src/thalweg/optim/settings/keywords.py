"""Keywords: the settings of a rule as keywords of `torch.optim`, and back.

They have the same names, except that hyperparameters which declare a shared `keyword` are one tuple: `beta1` and
`beta2` are `betas`. Schedulers, checkpoints and all other readers of `param_groups` see torch's form.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from itertools import chain
from typing import Any, get_args

import torch
from torch import Tensor

from thalweg.engine.backends import Backend
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.precision import Rounding
from thalweg.errors import (
    KeywordError,
    ParameterError,
    ParameterTypeError,
    RoutingError,
    SettingError,
    nearest_setting,
    shown,
)
from thalweg.optim.settings.device_groups import DeviceGroup
from thalweg.registry import name_of_rule
from thalweg.rules import Hyper, Rule
from thalweg.rules.core.hyper import as_plain

# The keywords that select torch's kernels. Here `backend` does that, so `foreach` and `fused` have no effect; they are
# accepted so that a change of import is enough.
TORCH_KERNELS = ("foreach", "fused", "capturable", "differentiable")
# The keys that groups of torch's own optimizers have in addition to those of ours.
TORCH_ONLY = (*TORCH_KERNELS, "decoupled_weight_decay")
# The keywords that every optimizer has in addition to the settings of its rule, with their defaults.
COMMON: dict[str, Any] = {"maximize": False, "rounding": "nearest", "seed": 0, "backend": None}

_TORCH_NAMES = {"AdaGrad": "Adagrad"}  # classes that torch spells otherwise
_PLAIN_TYPES = frozenset({float, int, bool, str})
_SWITCH = Hyper(False, "", kind="switch")
_ROUNDING = Hyper("nearest", "", kind="choice", options=get_args(Rounding))


@cache
def members(rule: Rule) -> dict[str, list[str]]:
    """Return for each keyword the names of its hyperparameters, in torch's order."""
    return names_by_keyword(rule.hypers())


def names_by_keyword(hypers: Mapping[str, Hyper]) -> dict[str, list[str]]:
    """Return for each keyword the names of its hyperparameters, in the order of their declaration."""
    names: dict[str, list[str]] = {}
    for name, declared in hypers.items():
        names.setdefault(declared.keyword or name, []).append(name)
    return names


def from_rule(rule: Rule) -> dict[str, Any]:
    """Return the settings of a rule by keyword."""
    return _values_by_keyword(members(rule), rule.settings())


def values_by_keyword(hypers: Mapping[str, Hyper], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by keyword.

    Args:
        hypers: The declarations of the hyperparameters by name.
        settings: A value for each hyperparameter.

    Returns:
        A value, or a tuple of values, for each keyword.
    """
    return _values_by_keyword(names_by_keyword(hypers), settings)


def _values_by_keyword(names: Mapping[str, list[str]], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        keyword: settings[members[0]] if members == [keyword] else tuple(settings[name] for name in members)
        for keyword, members in names.items()
    }


def settings(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a parameter group by the names of the hyperparameters.

    A tensor or an array is read and not kept, since schedulers write to it in place. None means the default if it is
    torch's.

    Raises:
        SettingError: If a tuple has the wrong length, or the value of a tensor cannot be read.
    """
    values_by_name: dict[str, Any] = {}
    for keyword, names in members(rule).items():
        values = group[keyword]
        if names == [keyword]:
            values = (values,)
        elif type(values) not in (tuple, list) or len(values) != len(names):
            values = _as_tuple(rule, keyword, values, len(names))
        for name, value in zip(names, values, strict=True):
            if type(value) in _PLAIN_TYPES:
                values_by_name[name] = value
            elif isinstance(value, Tensor) and isinstance(group, DeviceGroup):
                values_by_name[name] = _converted(group.first_value(value.reshape(()) if value.numel() == 1 else value))
            else:
                values_by_name[name] = _read(rule, keyword, name, value)
    return values_by_name


def changes(known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from known ones. Tensors always do, since their values are not read."""
    return {
        name: value
        for name, value in settings.items()
        if type(value) not in _PLAIN_TYPES or type(known.get(name)) is not type(value) or known[name] != value
    }


def _as_tuple(rule: Rule, keyword: str, values: Any, length: int) -> tuple[Any, ...]:
    """Return the values of a keyword that stands for several settings: a sequence, an array or a tensor."""
    try:
        is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
        members = tuple(values if is_sequence else values.tolist())
    except Exception:  # no sequence, or the code of a user's class
        members = ()
    if len(members) != length:
        raise SettingError(f"{rule.name}: {keyword} must hold {length} numbers, got {shown(values)}.")
    return members


def _read(rule: Rule, keyword: str, name: str, value: Any) -> Any:
    """Return the value of a setting that is none of Python's own numbers."""
    if value is None and _allows_none(rule.name, keyword):
        return rule.hypers()[name].default
    return read_value(rule, name, value)


def read_value(rule: Rule, name: str, value: Any) -> Any:
    """Return a number, bool or text of any library, or that in a tensor of one element, as that of Python.

    Raises:
        SettingError: If the tensor holds no number, as those on the meta device.
    """
    return _converted(_item(rule, name, value) if isinstance(value, Tensor) and value.numel() == 1 else value)


def _item(rule: Rule, name: str, tensor: Tensor) -> Any:
    try:
        return tensor.item()
    except (RuntimeError, NotImplementedError):
        got = f"a tensor on {tensor.device}" if tensor.layout == torch.strided else f"a tensor of {tensor.layout}"
        raise SettingError(
            f"{rule.name}: {name} must be a number, got {got}, which has no value to read. Pass a float."
        ) from None


def plain_settings(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a group, with the settings of the rule as Python's own numbers and tuples.

    So a checkpoint holds nothing that ``torch.load(weights_only=True)`` refuses. Tensors stay, since schedulers write
    to them in place. Values that cannot be converted stay too: :func:`to_rule` refuses them.

    Raises:
        SettingError: If a tuple has the wrong length, or a keyword that all optimizers have is invalid.
    """
    converted = dict(group)
    for keyword, names in members(rule).items():
        if keyword not in group:
            continue
        value = group[keyword]
        if names == [keyword]:
            converted[keyword] = _converted(value)
        elif type(value) not in (tuple, list) or any(type(member) not in _PLAIN_TYPES for member in value):
            converted[keyword] = tuple(map(_converted, _as_tuple(rule, keyword, value, len(names))))
    return converted | check_common(rule, group)


def _converted(value: Any) -> Any:
    converted = as_plain(value)
    return value if converted is None else converted


def _allows_none(rule_name: str, keyword: str) -> bool:
    """Return True if None is torch's default of a keyword, or of a member of its tuple."""
    defaults = torch_defaults(rule_name)
    default = defaults.get(keyword)
    return keyword in defaults and None in (default if isinstance(default, tuple) else (default,))


@cache
def torch_defaults(rule_name: str) -> dict[str, Any]:
    """Return the keywords of torch's optimizer of this name with their defaults; none if torch has no such class."""
    kind = getattr(torch.optim, _TORCH_NAMES.get(rule_name, rule_name), None)
    return {key: parameter.default for key, parameter in inspect.signature(kind).parameters.items()} if kind else {}


def to_rule(rule: Rule, group: Mapping[str, Any]) -> Rule:
    """Return the rule with the settings of a parameter group."""
    return rule.with_(**settings(rule, group))


def bind(rule: Rule, args: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of a call by keyword.

    Args:
        rule: The rule, whose settings are the defaults.
        args: The settings by position.
        settings: The settings by keyword.

    Returns:
        A value for each keyword of the rule.

    Raises:
        KeywordError: If a keyword is unknown or given twice.
    """
    defaults = from_rule(rule)
    if len(args) > len(defaults):
        raise KeywordError(f"{rule.name}: at most {len(defaults)} settings may be given by position, got {len(args)}.")
    by_position = dict(zip(defaults, args, strict=False))
    for keyword in settings:
        if keyword in by_position:
            raise KeywordError(f"{rule.name}: {keyword} must be given once, got it by position and by name.")
        if keyword not in defaults:
            known = [*defaults, *COMMON]
            raise KeywordError(
                f"{rule.name}: the settings are {', '.join(known)}, got {keyword!r}. {nearest_setting(keyword, known)}"
            )
    return defaults | by_position | settings


def defaults_of(rule: Rule, args: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of an optimizer: all settings of a call by keyword.

    If nothing selects one of the parts of a rule, "rule" is None, so that each group must say it.
    """
    defaults = bind(rule, args, settings)
    if rule.parts and settings.get("rule") is None and defaults["rule"] == rule.hypers()["rule"].default:
        defaults["rule"] = None
    return defaults


def check_routed(rule: Rule, group: Mapping[str, Any]) -> None:
    """Raise RoutingError if a rule has parts and a group does not say which of them steps its parameters."""
    if not rule.parts or group["rule"] is not None:
        return
    name, parts = name_of_rule(rule), " or ".join(f'"rule": {part!r}' for part in rule.parts)
    example = f"thalweg.optim.route(model, {name!r}).optimizer()" if name else "thalweg.optim.route(model, rule)"
    raise RoutingError(
        f"{rule.name}: every parameter group must say which rule steps it, got one that does not. Use {example}, which "
        f"assigns parameters by their roles, or add {parts} to each group."
    )


def without_torch_kernels(rule: Rule, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a call or a group without the keywords that select torch's kernels.

    Raises:
        KeywordError: If such a keyword asks for what no backend does.
    """
    for keyword in TORCH_KERNELS:
        if settings.get(keyword) is not None:
            _SWITCH.parse(f"{rule.name}: {keyword}", settings[keyword])
    if settings.get("foreach") and settings.get("fused"):
        raise KeywordError(f"{rule.name}: foreach and fused must not both be True. Remove both.")
    if settings.get("capturable") and settings.get("differentiable"):
        raise KeywordError(f"{rule.name}: capturable and differentiable must not both be True. Remove one of them.")
    if settings.get("differentiable") and rule.traits.needs == "closure":
        raise KeywordError(
            f"{rule.name}: differentiable must be False, since a line search is not differentiable, "
            "got differentiable=True. Remove it."
        )
    return {keyword: value for keyword, value in settings.items() if keyword not in TORCH_KERNELS}


def check_common(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keywords of a group that all optimizers have, and return them as Python's own values.

    Raises:
        SettingError: If one of them is invalid.
    """
    common = {name: _read(rule, name, name, group[name]) for name in ("maximize", "rounding", "seed") if name in group}
    if "maximize" in common:
        common["maximize"] = _SWITCH.parse(f"{rule.name}: maximize", common["maximize"])
    if "rounding" in common:
        _ROUNDING.parse(f"{rule.name}: rounding", common["rounding"])
    seed = common.get("seed", 0)
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise SettingError(f"{rule.name}: seed must be an integer of at most 64 bits, got {shown(seed)}.")
    return common


def check_backend(rule: Rule, backend: Any) -> None:
    """Raise SettingError unless this is the name of a backend or None."""
    if backend is not None and not (isinstance(backend, str) and backend in get_args(Backend)):
        raise SettingError(
            f"{rule.name}: backend must be one of {', '.join(get_args(Backend))} or None, got {shown(backend)}."
        )


def check_group(rule: Rule, group: dict[str, Any]) -> None:
    """Check the keys of a parameter group.

    As in torch a group may have keys of the user's own (`name`, `initial_lr`). Only near misses are errors.

    Raises:
        ParameterTypeError: If the group is no dictionary.
        ParameterError: If the group has no parameters.
        KeywordError: If a key is nearly the name of a setting, or belongs to the optimizer.
    """
    if not isinstance(group, dict):
        raise ParameterTypeError(
            f"{rule.name}: a parameter group must be a dictionary, got {shown(group)}. Pass {{'params': [...]}}."
        )
    if not all(isinstance(key, str) for key in group):
        raise KeywordError(f"{rule.name}: the keys of a parameter group must be names, got {shown(list(group))}.")
    if "params" not in group:
        raise ParameterError(f"{rule.name}: a parameter group must have the key 'params', got {shown(list(group))}.")
    if "backend" in group:
        raise KeywordError(
            f"{rule.name}: backend must be given to the optimizer, not to a group, got {shown(group['backend'])}."
        )
    known = [*from_rule(rule), *COMMON]
    for key in group.keys() - {"params", *known}:
        close = ["lr"] if key == "learning_rate" else get_close_matches(key, known, n=1, cutoff=0.85)
        if close and not key.startswith("no_"):  # a key of the user's own, such as `no_weight_decay`
            raise KeywordError(f"{rule.name}: a parameter group has the key {key!r}. Did you mean {close[0]}?")


def settings_with_gradient(rule: Rule, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the settings of a group that are tensors and require a gradient, by the names of the hyperparameters.

    They are in float64, in which all scalars of a step are computed.
    """
    tensors: dict[str, Tensor] = {}
    for keyword, names in members(rule).items():
        for name, value in zip(names, _as_list(group[keyword]), strict=True):
            if isinstance(value, Tensor) and value.requires_grad and value.numel() == 1:
                tensors[name] = value.reshape(()).to("cpu", torch.float64)
    return tensors


@contextmanager
def no_gradient_is_lost(rule: Rule) -> Iterator[None]:
    """Return a context in which the scalars of a differentiable step are computed.

    Raises:
        ParameterError: If a setting requires a gradient and the rule reads it as a number, or only to choose.
    """
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch warns of a lost gradient, by default once in a process
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Converting a tensor with requires_grad=True to a scalar")
            yield
    except (TypeError, UserWarning) as error:
        raise ParameterError(
            f"{rule.name}: a gradient must reach every setting that requires one, but the rule reads one of them as a "
            "number. Detach it."
        ) from error
    finally:
        torch.set_warn_always(always)


def check_recurrent_scalars(rule: Rule, steps: Sequence[BatchStep]) -> None:
    """Raise ParameterError if a scalar that is kept from step to step requires a gradient: it is kept as a number."""
    for c in chain.from_iterable(step.coefficients for step in steps):
        for name in rule.traits.recurrent_scalars:
            if isinstance(getattr(c, name), Tensor):
                raise ParameterError(
                    f"{rule.name}: a gradient must reach every setting that requires one, but {name} is kept from step "
                    "to step as a number. Detach the settings that it depends on."
                )


def _as_list(values: Any) -> Sequence[Any]:
    return values if isinstance(values, tuple | list) else [values]
