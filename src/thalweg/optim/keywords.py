"""Between a rule's hyperparameters and the keywords of `torch.optim`.

They have the same names, except that hyperparameters which declare a shared `keyword` travel as one tuple:
`beta1` and `beta2` are `betas`. Whatever reads `param_groups` (schedulers, checkpoints) sees torch's form.
"""

import inspect
from typing import Any

from thalweg.errors import KeywordError, SettingError, nearest
from thalweg.rules import Rule

# How torch.optim chooses among its own kernels. Its defaults are accepted, since they ask for nothing.
TORCH_KERNELS = ("foreach", "fused", "capturable", "differentiable")


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
            if given[keyword]:
                raise KeywordError(
                    f"{rule.__name__}: {keyword} chooses among torch's own kernels and has no meaning here, "
                    f"got {keyword}={given[keyword]!r}. Leave it out."
                )
        elif keyword not in defaults:
            raise KeywordError(
                f"{rule.__name__}: the settings are {', '.join(defaults)} and maximize, got {keyword!r}. "
                f"{nearest(keyword, [*defaults, 'maximize'])}"
            )
    return defaults | by_position | {key: value for key, value in given.items() if key not in TORCH_KERNELS}
