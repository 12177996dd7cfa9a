"""Between a rule's hyperparameters and the keywords of `torch.optim`.

They have the same names, except that hyperparameters which declare a shared `keyword` travel as one tuple:
`beta1` and `beta2` are `betas`. Whatever reads `param_groups` (schedulers, checkpoints) sees torch's form.
"""

import inspect
from difflib import get_close_matches
from typing import Any

from thalweg.errors import KeywordError, ParameterError, SettingError, nearest
from thalweg.rules import Rule

# How torch.optim chooses among its own kernels. Its defaults are accepted, since they ask for nothing.
TORCH_KERNELS = ("foreach", "fused", "capturable", "differentiable")
# What groups of torch's own optimizers hold besides, and ours do not.
TORCH_ONLY = (*TORCH_KERNELS, "decoupled_weight_decay")


def members(rule: type[Rule]) -> dict[str, list[str]]:
    """Each keyword, with the hyperparameters it carries, in torch's order."""
    carried: dict[str, list[str]] = {}
    for name, declared in rule.hypers().items():
        carried.setdefault(declared.keyword or name, []).append(name)
    return carried


def from_rule(rule: Rule) -> dict[str, Any]:
    """The keywords of a rule's settings."""
    settings = rule.settings()
    return {
        keyword: settings[names[0]] if names == [keyword] else tuple(settings[name] for name in names)
        for keyword, names in members(type(rule)).items()
    }


def to_rule(rule: type[Rule], group: dict[str, Any]) -> Rule:
    """The rule whose settings a parameter group holds; what else the group holds is left alone."""
    settings: dict[str, Any] = {}
    for keyword, names in members(rule).items():
        if names == [keyword]:
            settings[keyword] = group[keyword]
            continue
        values = group[keyword]
        if not isinstance(values, tuple | list) or len(values) != len(names):
            raise SettingError(f"{rule.__name__}: {keyword} must hold {len(names)} numbers, got {values!r}.")
        settings |= dict(zip(names, values, strict=True))
    return rule(**settings)


def signature(rule: type[Rule]) -> inspect.Signature:
    """The signature of the optimizer made from a rule, for `help` and editors."""
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", positional)]
    parameters += [inspect.Parameter(key, positional, default=value) for key, value in from_rule(rule()).items()]
    parameters += [inspect.Parameter("maximize", inspect.Parameter.KEYWORD_ONLY, default=False)]
    return inspect.Signature(parameters)


def bind(rule: type[Rule], args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The keywords that a call sets, with the defaults of the rest. An unknown one raises KeywordError."""
    defaults = from_rule(rule())
    if len(args) > len(defaults):
        raise KeywordError(
            f"{rule.__name__}: at most {len(defaults)} settings may be given by position, got {len(args)}."
        )
    by_position = dict(zip(defaults, args, strict=False))
    for keyword in given:
        if keyword in by_position:
            raise KeywordError(f"{rule.__name__}: {keyword} must be given once, got it by position and by name.")
        if keyword in TORCH_KERNELS:
            _check_kernel(rule, keyword, given[keyword])
        elif keyword not in defaults:
            raise KeywordError(
                f"{rule.__name__}: the settings are {', '.join(defaults)} and maximize, got {keyword!r}. "
                f"{nearest(keyword, [*defaults, 'maximize'])}"
            )
    return defaults | by_position | {key: value for key, value in given.items() if key not in TORCH_KERNELS}


def _check_kernel(rule: type[Rule], keyword: str, value: Any) -> None:
    if value:
        raise KeywordError(
            f"{rule.__name__}: {keyword} chooses among torch's own kernels and has no meaning here, "
            f"got {keyword}={value!r}. Leave it out."
        )


def check_group(rule: type[Rule], group: dict[str, Any]) -> None:
    """Refuse a parameter group without parameters, and a keyword that was meant to be another.

    As in torch a group may hold keys of the user's own (`name`, `initial_lr`): only near misses are errors.
    """
    if "params" not in group:
        raise ParameterError(f"{rule.__name__}: a parameter group must have the key 'params', got {sorted(group)}.")
    known = [*from_rule(rule()), "maximize"]
    for key in group.keys() - {"params", *known}:
        if key in TORCH_KERNELS:
            _check_kernel(rule, key, group[key])
        elif close := get_close_matches(key, known, n=1, cutoff=0.85):
            raise KeywordError(f"{rule.__name__}: a parameter group has the key {key!r}. Did you mean {close[0]}?")


def check_checkpoint(rule: type[Rule], group: dict[str, Any]) -> None:
    """Refuse a saved group that belongs to another algorithm."""
    missing = [keyword for keyword in members(rule) if keyword not in group]
    if missing:
        raise ParameterError(
            f"{rule.__name__}: the checkpoint must be one of {rule.__name__}, got one without {', '.join(missing)}. "
            "Load it into the optimizer that saved it."
        )
    if group.get("decoupled_weight_decay") and rule.__name__ == "Adam":  # torch's AdamW has the key, always true
        raise ParameterError(
            f"{rule.__name__}: the checkpoint must have weight decay as an L2 penalty, got decoupled weight decay. "
            "Load it into AdamW."
        )
