"""Named: rules by what they are called, which is the name of their file.

adamw        cautious(clip(adamw))        muon+adamw: matrices by the first, the rest by the second
"""

import re
from collections.abc import Callable
from types import ModuleType

from thalweg import rules
from thalweg.errors import UnknownNameError, nearest
from thalweg.rules import wrappers
from thalweg.rules.base.routed import Routed
from thalweg.rules.base.rule import Rule
from thalweg.rules.base.wrapper import Wrapper

_WRAPPED = re.compile(r"(\w+)\((.*)\)")


def _by_file(home: ModuleType, base: type[Rule]) -> dict[str, type[Rule]]:
    found = (getattr(home, name) for name in home.__all__)
    kinds = (one for one in found if isinstance(one, type) and issubclass(one, base))
    return {kind.__module__.rpartition(".")[2]: kind for kind in kinds if ".base." not in kind.__module__}


RULES: dict[str, type[Rule]] = _by_file(rules, Rule)
WRAPPERS: dict[str, type[Rule]] = _by_file(wrappers, Wrapper)


def named(text: str) -> Rule:
    """The rule that a name means, at its defaults. Raises UnknownNameError."""
    return read(text, _single)


def _single(name: str) -> Rule:
    if name not in RULES:
        raise UnknownNameError(f"thalweg: no rule is called {name!r}. {nearest(name, RULES)}")
    return RULES[name]()


def read(text: str, single: Callable[[str], Rule]) -> Rule:
    """What wrappers and plus signs make of rules; `single` reads what has neither."""
    text = text.strip()
    parts = split_at(text, "+")
    if len(parts) > 1:
        return side_by_side(*(read(part, single) for part in parts))
    if match := _WRAPPED.fullmatch(text):
        name, inner = match.groups()
        if name not in WRAPPERS:
            raise UnknownNameError(f"thalweg: no wrapper is called {name!r}. {nearest(name, WRAPPERS)}")
        return WRAPPERS[name](read(inner, single))  # type: ignore[call-arg]  # every wrapper takes the rule it is around
    return single(text)


def side_by_side(*parts: Rule) -> Routed:
    """Rules for parameters of their own, at steps of one size where that can be chosen: one learning rate for all."""
    matched = [
        rule.with_(adjust_lr_fn="match_rms_adamw") if "adjust_lr_fn" in rule.hypers() else rule for rule in parts
    ]
    return Routed(tuple(matched))


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
