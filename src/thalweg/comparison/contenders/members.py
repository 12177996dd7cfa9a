"""Members: a contender for each of the optimizers of one training, which have names.

``named(d=sgd,g=adam:beta1=0.5)`` on the command line, ``{"d": "sgd", "g": "adam:beta1=0.5"}`` in Python.
"""

import re
from collections.abc import Callable, Mapping

from thalweg.comparison.contenders.contender import Contender, full_name
from thalweg.errors import SettingError, shown
from thalweg.registry import split_at

PREFIX = "named("
_NAME = re.compile(r"[A-Za-z_]\w*")
_FORM = "Write named(d=sgd,g=adam), with the names in make_optimizer(model, name='d')."


def parse_members(text: str, parse: Callable[[str], Contender]) -> Contender:
    """Parse ``named(d=sgd,g=adam:beta1=0.5,lr=0.01)``.

    After a contender with settings, ``lr=0.01`` is one more setting if it has a setting of this name.

    Args:
        text: The text; a contender without a name is for optimizers without one.
        parse: Returns the contender of a text.

    Raises:
        SettingError: If the text has another form, or a name stands twice.
    """
    if not text.endswith(")"):
        raise SettingError(f"thalweg: settings must stand beside their contender, got {shown(text)}. {_FORM}")
    members: list[tuple[str, str]] = []
    for part in filter(None, map(str.strip, split_at(text[len(PREFIX) : -1], ","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not _NAME.fullmatch(key):
            members.append(("", part))
        elif members and ":" in members[-1][1] and _is_setting(key, parse(members[-1][1])):
            members[-1] = members[-1][0], f"{members[-1][1]},{part}"
        else:
            members.append((key, value))
    names = [name for name, _ in members]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(f"thalweg: each optimizer must be named once, got {name!r} twice in {shown(text)}.")
    return with_members({name: parse(member) for name, member in members})


def _is_setting(key: str, contender: Contender) -> bool:
    return key == "schedule" or key in contender.rule.hypers()


def with_members(members: Mapping[str, Contender]) -> Contender:
    """Return the contender of trainings with several optimizers, each with a contender of its own.

    Args:
        members: The contender of each optimizer, by its name.

    Raises:
        SettingError: If there is none, a name is no word, or a contender needs all data in a batch, or has members.
    """
    if not members:
        raise SettingError(f"thalweg: an optimizer must be named, got none. {_FORM}")
    for name, member in members.items():
        if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
            raise SettingError(f"thalweg: the name of an optimizer must be a word, got {shown(name)}. {_FORM}")
        if member.members:
            raise SettingError(f"thalweg: {name} must be one optimizer, got {member.name}. {_FORM}")
        needs_closure = member.thalweg_rule is not None and member.thalweg_rule.traits.needs == "closure"
        if member.full_batch and not needs_closure:
            raise SettingError(
                f"{member.name}: an optimizer on the full batch must train alone, got it for {name}. Use sgd, say."
            )
    parts = [f"{name}={member.name}" if name else member.name for name, member in members.items()]
    recommended = {
        full_name(name, setting): value
        for name, member in members.items()
        for setting, value in member.recommended.items()
    }
    return Contender(
        name=f"{PREFIX}{','.join(parts)})",
        rule=next(iter(members.values())).rule,
        about="; ".join(f"{name or 'without a name'}: {member.about}" for name, member in members.items()),
        pinned=frozenset(full_name(name, pinned) for name, member in members.items() for pinned in member.pinned),
        ranges={
            full_name(name, own): bounds for name, member in members.items() for own, bounds in member.ranges.items()
        },
        recommended=recommended if all(member.recommended for member in members.values()) else {},
        optimizer_names=tuple(members),
        members=dict(members),
    )
