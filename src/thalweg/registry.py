"""Registry: the names of rules and wrappers, and the expressions that combine them.

A rule has the name of its file: ``adamw``. In expressions, parentheses wrap a rule: ``cautious(clip(adamw))``. A plus
sign routes matrices to the first rule and all other parameters to the second: ``muon+adamw``. ``then`` switches from
one rule to another: ``then(adam,sgd)``.
"""

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import accumulate
from types import ModuleType
from typing import Any, TypeVar

from thalweg import rules
from thalweg.errors import SettingError, UnknownNameError, nearest, shown
from thalweg.rules import wrappers
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.routed import Routed
from thalweg.rules.composition.switched import Switched
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.rule import Rule

_MAX_LENGTH = 1000  # of an expression: each name in it is looked up, and each wrapper checks all rules inside
_MAX_DEPTH = 32
_CALL = re.compile(r"(\w+)\((.*)\)")
_ASSIGNMENT = re.compile(r"\s*(\w+)\s*=")

_T = TypeVar("_T")


def _classes_by_file(package: ModuleType, base: type[_T]) -> dict[str, type[_T]]:
    """Map the file name of each class that a package exports and that derives from `base` to the class."""
    classes = [value for value in (getattr(package, name) for name in package.__all__) if isinstance(value, type)]
    return {_file_of(value): value for value in classes if issubclass(value, base)}


def _file_of(rule_class: type) -> str:
    return rule_class.__module__.rpartition(".")[2]


WRAPPERS: dict[str, type[Wrapper]] = _classes_by_file(wrappers, Wrapper)
RULES: dict[str, type[Rule]] = {
    name: rule_class
    for name, rule_class in _classes_by_file(rules, Rule).items()
    if rule_class.__module__ == f"thalweg.rules.{name}"
}


def rule_from_name(text: str) -> Rule:
    """Return the rule of a name or an expression, at its default settings.

    Args:
        text: The name or expression, such as ``"adamw"`` or ``"cautious(muon)+adamw"``.

    Returns:
        The rule.

    Raises:
        UnknownNameError: If there is no such rule or wrapper, or the expression cannot be parsed.
        SettingError: If a wrapper or a composite does not accept its rules.

    Example:
        >>> rule_from_name("clip(adamw)").name
        'Clip(AdamW)'
    """
    return parse_expression(text, _rule_of_file, lambda wrapper, inner: wrapper(inner), combine_rules)


def as_rule(who: str, value: Any) -> Rule:
    """Return the rule that a user passed: an instance, a class or a name.

    Args:
        who: The function that was called, for the error message.
        value: What the user passed.

    Raises:
        UnknownNameError: If no rule has this name.
        SettingError: If this is no rule.
    """
    if isinstance(value, str):
        return rule_from_name(value)
    if isinstance(value, type) and issubclass(value, Rule):
        try:
            value = value()
        except TypeError:  # a base class, or a wrapper without a rule to wrap
            raise SettingError(
                f"{who}: a rule must be complete, got the class {value.__name__}, which needs arguments. "
                "Pass an instance, such as Clip(AdamW())."
            ) from None
    if isinstance(value, Rule) and not is_dataclass(value):
        raise SettingError(
            f"{who}: a rule must be a dataclass, got the class {type(value).__name__}. "
            "Put @dataclass(frozen=True, kw_only=True) above it."
        )
    if not isinstance(value, Rule):
        raise SettingError(f"{who}: a rule must be a name or a rule, got {shown(value)}. Pass 'adamw', for example.")
    return value


def _rule_of_file(name: str) -> Rule:
    base, mark, _ = name.partition(":")
    if mark:
        raise UnknownNameError(
            f"thalweg: a rule must be a name without settings here, got {shown(name)}. Pass {shown(base)}, and the "
            "settings as arguments, lr=0.1."
        )
    if name not in RULES:
        raise UnknownNameError(f"thalweg: no rule is called {shown(name)}. {nearest(name, RULES)}")
    return RULES[name]()


def parse_expression(
    text: str,
    make_single: Callable[[str], _T],
    make_wrapped: Callable[[type[Wrapper], _T], _T],
    make_combined: Callable[..., _T],
) -> _T:
    """Parse an expression of names, parentheses and plus signs.

    Args:
        text: The expression.
        make_single: Returns the result for a name.
        make_wrapped: Returns the result for a wrapper around a result.
        make_combined: Returns the result for an operator, ``"+"`` or ``"then"``, and its operands.

    Returns:
        The result for the whole expression.

    Raises:
        UnknownNameError: If there is no such wrapper, or parentheses do not match.
    """
    if not isinstance(text, str) or len(text) > _MAX_LENGTH or _depth(text) > _MAX_DEPTH:
        raise UnknownNameError(
            f"thalweg: a rule must be a name or an expression of at most {_MAX_LENGTH} letters and {_MAX_DEPTH} nested "
            f"parentheses, got {shown(text)}. Pass a rule object, or a name such as 'adamw'."
        )

    def parse(text: str) -> _T:
        text = text.strip()
        operands = split_at(text, "+")
        if len(operands) > 1:
            return make_combined("+", *map(parse, operands))
        if match := _CALL.fullmatch(text):
            name, inner = match.groups()
            if name != "then" and name not in WRAPPERS:
                raise UnknownNameError(f"thalweg: no wrapper is called {name!r}. {nearest(name, [*WRAPPERS, 'then'])}")
            members, settings = _split_settings(name, inner)
            if settings:
                return make_single(f"{name}({','.join(members)}):{','.join(settings)}")
            if name == "then":
                return make_combined("then", *map(parse, members))
            return make_wrapped(WRAPPERS[name], parse(inner))
        if _CALL.fullmatch(split_at(text, ":")[0]):  # with settings after its parentheses
            return make_single(text)
        if any(mark in text.partition(":")[0] for mark in "(+)") or not text:
            raise UnknownNameError(
                f"thalweg: a rule must read like adamw, cautious(adamw), muon+adamw or then(adam,sgd), got "
                f"{shown(text)}. Check its parentheses."
            )
        return make_single(text)

    return parse(text)


def _split_settings(name: str, inner: str) -> tuple[list[str], list[str]]:
    """Divide what stands in the parentheses of ``then`` or a wrapper into members and the settings of the whole.

    A setting that follows a member with settings belongs to that member, unless only the whole knows it.

    Example:
        >>> _split_settings("then", "adam:lr=0.1,beta1=0.8,sgd,switch_at=5")
        (['adam:lr=0.1,beta1=0.8', 'sgd'], ['switch_at=5'])
    """
    own = {field.name for field in fields(Switched if name == "then" else WRAPPERS[name])}
    members: list[str] = []
    settings: list[str] = []
    for part in split_at(inner, ","):
        key = _ASSIGNMENT.match(part)
        if key is None or not members:
            members.append(part)
        elif key[1] in own or settings or len(split_at(members[-1], ":")) == 1:
            settings.append(part.strip())
        else:
            members[-1] += "," + part
    return members, settings


def _depth(text: str) -> int:
    """Return how deep the parentheses of a text are nested."""
    return max(accumulate((letter == "(") - (letter == ")") for letter in text), default=0)


def combine_rules(operator: str, *operands: Rule) -> Rule:
    """Combine rules by an operator of expressions.

    Args:
        operator: ``"then"`` for one rule after another, ``"+"`` for rules of different parameters.
        *operands: The rules. If the first can adjust the size of its steps to that of AdamW (Muon), it does, and the
            others get its learning rate.

    Returns:
        The combined rule.
    """
    if operator == "then":
        return Switched(operands)
    first, *rest = operands
    if "adjust_lr_fn" not in first.hypers():
        return Routed(operands)
    lr = first.settings()["lr"]
    adjusted = (rule if rule.hypers()["lr"].unit == "1" else rule.with_(lr=lr) for rule in rest)
    return Routed((first.with_(adjust_lr_fn="match_rms_adamw"), *adjusted))


def name_of_rule(rule: Rule) -> str | None:
    """Return the expression for a rule, without its settings.

    Args:
        rule: The rule.

    Returns:
        The expression; None if a part of the rule is not in the registry, such as a user's own rule.

    Example:
        >>> from thalweg.rules import Adam, Clip
        >>> name_of_rule(Clip(Adam(lr=0.1)))
        'clip(adam)'
    """
    if isinstance(rule, CompositeRule):
        names = [name_of_rule(member) for member in rule.original_rules]
        known = [name for name in names if name is not None]
        if len(known) < len(names):
            return None
        return "+".join(known) if isinstance(rule, Routed) else f"then({','.join(known)})"
    file = _file_of(type(rule))
    if isinstance(rule, Wrapper):
        inner = name_of_rule(rule.inner)
        return f"{file}({inner})" if inner and WRAPPERS.get(file) is type(rule) else None
    return file if RULES.get(file) is type(rule) else None


def name_of_rule_class(rule_class: type[Rule]) -> str | None:
    """Return the name of a rule or wrapper by its class; None if it is not in the registry.

    Example:
        >>> from thalweg.rules import Clip
        >>> name_of_rule_class(Clip)
        'clip'
    """
    name = _file_of(rule_class)
    return name if rule_class in (RULES.get(name), WRAPPERS.get(name)) else None


def split_at(text: str, mark: str) -> list[str]:
    """Split a text at a mark, except within parentheses.

    Example:
        >>> split_at("then(adam,sgd),lion", ",")
        ['then(adam,sgd)', 'lion']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
