"""Signatures: the typed signature and the docstring of an optimizer, read from the declarations of its rule.

`RuleOptimizer` shows them to `inspect` and `help`. `stubs` writes the same for type checkers and editors.
"""

import inspect
import textwrap
from collections.abc import Sequence
from operator import getitem
from typing import Any, Literal

from torch.optim.optimizer import ParamsT

from thalweg.engine.backends import Backend
from thalweg.engine.core.precision import Rounding
from thalweg.optim.settings import keywords
from thalweg.registry import RULES, name_of_rule
from thalweg.rules import Hyper, Rule
from thalweg.rules.core.hyper import Scalar

_WIDTH = 112  # of a line of a docstring: 120 where it is indented twice
_COMMON_TYPES: dict[str, Any] = {"maximize": bool, "rounding": Rounding, "seed": int, "backend": Backend | None}
# What torch's classes have in addition, and what `differentiable` means for all rules that take one step at a time.
_TORCH_TYPES: dict[str, Any] = {
    "foreach": bool | None,
    "fused": bool | None,
    "capturable": bool,
    "differentiable": bool,
}
_MEANINGS = {
    "params": "Parameters to optimize: tensors, pairs of a name and a tensor, or dictionaries that define groups.",
    "maximize": "Increase the loss instead of decreasing it.",
    "foreach": "Accepted for compatibility with ``torch.optim``, without effect: see ``backend``.",
    "fused": "Accepted for compatibility with ``torch.optim``, without effect: see ``backend``.",
    "capturable": (
        "Keep all numbers of a step on the device, so that a CUDA graph can replay it under any schedule, and a "
        "GradScaler does not wait."
    ),
    "differentiable": "Let autograd record each step. Steps are then run by the backend ``loop``.",
    "rounding": (
        "Rounding of bfloat16 and float16 parameters. ``kahan`` and ``stochastic`` keep steps that are below half a "
        "unit in the last place; ``stochastic`` is for bfloat16 only."
    ),
    "seed": "Seed of stochastic rounding and of the random numbers that a rule draws; an integer of 64 bits.",
    "backend": "Backend that runs the steps. None selects the fastest one for each batch of parameters.",
}
_UNITS = {"": "", "1": "", "steps": "in steps"}
_RAISES = """\
Raises:
    SettingError: If a setting is out of its bounds.
    KeywordError: If a keyword is unknown.
    ParameterError: If the rule cannot optimize a parameter."""


def signature(rule: Rule) -> inspect.Signature:
    """Return the signature of the optimizer of a rule: each keyword with its type and its default."""
    positional, keyword_only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    defaults = keywords.from_rule(rule)
    parameters = [inspect.Parameter("params", positional, annotation=ParamsT)]
    parameters += [
        inspect.Parameter(keyword, positional, default=defaults[keyword], annotation=_type_of(rule, keyword, names))
        for keyword, names in keywords.members(rule).items()
    ]
    types = _COMMON_TYPES | {keyword: _TORCH_TYPES[keyword] for keyword in _torch_keywords(rule)}
    parameters += [
        inspect.Parameter(keyword, keyword_only, default=_default_of(keyword), annotation=types[keyword])
        for keyword in sorted(types, key=list(_MEANINGS).index)
    ]
    return inspect.Signature(parameters)


def docstring(rule: Rule) -> str:
    """Return the docstring of the optimizer of a rule, in Google style."""
    hypers, defaults = rule.hypers(), keywords.from_rule(rule)
    arguments = {
        keyword: f"{_describe([hypers[name] for name in names])} Default: {_text(defaults[keyword])}."
        for keyword, names in keywords.members(rule).items()
    }
    arguments |= {name: _MEANINGS[name] for name in signature(rule).parameters if name in _MEANINGS}
    order = ["params", *(name for name in arguments if name != "params")]
    lines = [rule.__doc__ or rule.name, "", "Units are in terms of θ, a parameter, and g, its gradient.", "", "Args:"]
    for name in order:
        lines += textwrap.wrap(f"{name}: {arguments[name]}", _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)
    lines += ["", _RAISES]
    if example := _example(rule):
        lines += ["", "Example:", *(f"    {line}" for line in example)]
    return "\n".join(lines)


def _torch_keywords(rule: Rule) -> list[str]:
    """Return the keywords that select torch's kernels and that the optimizer of this rule declares."""
    if rule.traits.needs == "closure":
        return []
    torch_defaults = keywords.torch_defaults(rule.name)
    return [
        keyword for keyword in _TORCH_TYPES if keyword in torch_defaults or keyword in ("capturable", "differentiable")
    ]


def _default_of(keyword: str) -> Any:
    if keyword in keywords.COMMON:
        return keywords.COMMON[keyword]
    return None if _TORCH_TYPES[keyword] == bool | None else False


def _type_of(rule: Rule, keyword: str, names: Sequence[str]) -> Any:
    types = [_type_of_value(rule.hypers()[name]) for name in names]
    torch_default = keywords.torch_defaults(rule.name).get(keyword, False)
    torch_values = torch_default if isinstance(torch_default, tuple) else (torch_default,)
    types = [
        kind | None if value is None else kind
        for kind, value in zip(types, torch_values if len(torch_values) == len(types) else types, strict=True)
    ]
    return types[0] if list(names) == [keyword] else tuple[tuple(types)]  # type: ignore[misc]  # as many as there are


def _type_of_value(declared: Hyper) -> Any:
    if declared.kind == "choice":
        return getitem(Literal, declared.options)
    return {"switch": bool, "count": int, "number": Scalar}[declared.kind]


def _describe(members: Sequence[Hyper]) -> str:
    """Return the meaning, bound and unit of a keyword, which may stand for several hyperparameters."""
    if len(members) == 1:
        limits = _limits(members[0])
        return f"{_capitalized(members[0].doc)}{f'; {limits}' if limits else ''}."
    return f"{'; '.join(f'{_limits(member)}: {member.doc}' for member in members)}."


def _limits(declared: Hyper) -> str:
    """Return the symbol, bound and unit of a hyperparameter, as in "η >= 0, in units of θ"."""
    if declared.kind == "choice":
        return f"one of {', '.join(declared.options)}"
    bounded = f"{declared.symbol} {declared.bound or ''}".strip()
    return f"{bounded}, {_UNITS.get(declared.unit, f'in units of {declared.unit}')}".removesuffix(", ")


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(default: Any) -> str:
    return default if isinstance(default, str) else repr(default)


def _example(rule: Rule) -> list[str]:
    """Return the lines of a training step, or none for a rule that no name stands for or that needs groups."""
    name = name_of_rule(rule)
    if name is None or rule.parts:
        return []
    kind = f"optim.{type(rule).__name__}" if name in RULES else f'optim.optimizer_for("{name}")'
    params = "[model.weight]" if rule.traits.needs_whole_matrices or rule.traits.min_dims else "model.parameters()"
    lr = f", lr={_text(rule.settings()['lr'])}" if "lr" in rule.hypers() else ""
    loss = "model(torch.ones(8, 4)).square().mean()"
    lines = [
        ">>> import torch",
        ">>> from thalweg import optim",
        ">>> model = torch.nn.Linear(4, 2)",
        f">>> optimizer = {kind}({params}{lr})",
    ]
    if rule.traits.needs in ("closure", "second gradient"):
        lines += [
            ">>> def closure():",
            "...     optimizer.zero_grad()",
            f"...     loss = {loss}",
            "...     loss.backward()",
            "...     return loss",
            ">>> loss = optimizer.step(closure)",
        ]
    else:
        lines += [f">>> loss = {loss}"]
        lines += [">>> optimizer.estimate_curvature(loss)"] if rule.traits.needs == "curvature" else []
        lines += [">>> loss.backward()", ">>> optimizer.step()"]
    if rule.traits.has_eval_params:
        lines += [">>> with optimizer.evaluating():", f"...     validation_loss = {loss}"]
    return lines
