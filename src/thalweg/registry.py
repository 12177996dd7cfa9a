"""Named: rules by what they are called, which is the name of their file.

adamw        cautious(clip(adamw))        muon+adamw: matrices by the first, the rest by the second
"""

import re
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from thalweg import rules
from thalweg.errors import UnknownNameError, nearest
from thalweg.rules import wrappers
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.routed import Routed
from thalweg.rules.composition.switched import Switched
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.rule import Rule

_WRAPPED = re.compile(r"(\w+)\((.*)\)")


_T = TypeVar("_T")


def _by_file(home: ModuleType, base: type[_T]) -> dict[str, type[_T]]:
    """Map the file name of each class that a package exports and that derives from `base` to the class."""
    kinds = [kind for kind in (getattr(home, name) for name in home.__all__) if isinstance(kind, type)]
    return {kind.__module__.rpartition(".")[2]: kind for kind in kinds if issubclass(kind, base)}


WRAPPERS: dict[str, type[Wrapper]] = _by_file(wrappers, Wrapper)
RULES: dict[str, type[Rule]] = {
    name: kind for name, kind in _by_file(rules, Rule).items() if kind.__module__ == f"thalweg.rules.{name}"
}


def rule_from_name(text: str) -> Rule:
    """The rule that a name means, at its defaults. Raises UnknownNameError."""
    return parse_expression(text, _single, lambda kind, inner: kind(inner), combine_rules)


def _single(name: str) -> Rule:
    if name not in RULES:
        raise UnknownNameError(f"thalweg: no rule is called {name!r}. {nearest(name, RULES)}")
    return RULES[name]()


def parse_expression(
    text: str,
    single: Callable[[str], _T],
    wrapped: Callable[[type[Wrapper], _T], _T],
    several: Callable[..., _T],
) -> _T:
    """What parentheses and plus signs make of names, each of which `single` reads."""
    text = text.strip()
    parts = split_at(text, "+")
    if len(parts) > 1:
        return several("+", *(parse_expression(part, single, wrapped, several) for part in parts))
    if match := _WRAPPED.fullmatch(text):
        name, inner = match.groups()
        if name == "then":
            return several("then", *(parse_expression(part, single, wrapped, several) for part in split_at(inner, ",")))
        if name not in WRAPPERS:
            raise UnknownNameError(f"thalweg: no wrapper is called {name!r}. {nearest(name, WRAPPERS)}")
        return wrapped(WRAPPERS[name], parse_expression(inner, single, wrapped, several))
    if any(mark in text.partition(":")[0] for mark in "(+)") or not text:
        raise UnknownNameError(
            f"thalweg: a rule must read like adamw, cautious(adamw), muon+adamw or then(adam,sgd), got {text!r} there."
        )
    return single(text)


def combine_rules(how: str, *parts: Rule) -> Rule:
    """Rules one after the other, or side by side, then at steps of one size where that can be chosen."""
    if how == "then":
        return Switched(parts)
    first, *rest = parts
    if "adjust_lr_fn" not in first.hypers():
        return Routed(parts)
    lr = first.settings()["lr"]
    same = (rule if rule.hypers()["lr"].unit == "1" else rule.with_(lr=lr) for rule in rest)
    return Routed((first.with_(adjust_lr_fn="match_rms_adamw"), *same))


def name_of_rule(rule: Rule) -> str | None:
    """The name that means a rule but for its settings; None for one that has a user's own in it."""
    if isinstance(rule, CompositeRule):
        names = [name_of_rule(part) for part in rule.original_rules]
        known = [name for name in names if name is not None]
        if len(known) < len(names):
            return None
        return "+".join(known) if isinstance(rule, Routed) else f"then({','.join(known)})"
    kind = type(rule).__module__.rpartition(".")[2]
    if isinstance(rule, Wrapper):
        inner = name_of_rule(rule.inner)
        return f"{kind}({inner})" if inner and WRAPPERS.get(kind) is type(rule) else None
    return kind if RULES.get(kind) is type(rule) else None


def split_at(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that are in no parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
