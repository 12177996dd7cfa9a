"""Reading: from what a user writes to the contenders that are meant.

    adam                            a rule, as it starts
    adam:beta2=0.95,lr=1e-4..1e-2   one setting pinned, another searched in a range of the user's
    adam:schedule=cosine            with a schedule of its own (`none` for those that need none)
    cautious(adamw)                 a wrapper around it; settings may follow: clip(sgd):max_norm=0.5
    muon+adamw                      hidden matrices by the first, all else by the second (see `thalweg.optim.route`)
    then(adam,sgd):switch_at=500    the first for so many steps, then the second
    torch.optim:NAdam:lr=1e-4..1    any class of torch's form, by module and name
    path/to/file.py:make            a function (params, lr=...) of the user's

These are the forms that `parse` reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.external import ExternalOptimizer, external_optimizer, load_optimizer, path_of
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import check_schedule
from thalweg.errors import KeywordError, SettingError, UnknownNameError, nearest
from thalweg.registry import combine_rules, name_of_rule, parse_expression, split_at
from thalweg.rules import Range, Rule, Wrapper
from thalweg.rules.composition.composite import CompositeRule

_WIDE = 10.0  # the least ratio of the ends of a range that is searched in its logarithm


def parse(text: str) -> Contender:
    """The contender that a name means, with its settings; the top of this file shows the forms."""
    text = text.strip()
    head, *rest = split_at(text, ":")
    tail = ":".join(rest)
    if any(mark in head for mark in "(+"):
        entry = parse_expression(head, parse, _wrapped, _together)
    elif head in CONTENDERS:
        entry = CONTENDERS[head]
    elif rest:
        name, _, tail = tail.partition(":")
        found = load_optimizer(f"{head}:{name}")
        entry = (
            _of_foreign(found)
            if isinstance(found, ExternalOptimizer)
            else replace(_of_rule(found), name=f"{head}:{name}")
        )
    else:
        raise UnknownNameError(
            f"thalweg: no optimizer is called {head!r}. {nearest(head, CONTENDERS)} "
            "Others are written module:Class, as torch.optim:NAdam."
        )
    settings: dict[str, Any] = {}
    ranges: dict[str, Range] = {}
    schedule = entry.schedule
    for setting in filter(None, (part.strip() for part in tail.split(","))):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise SettingError(f"{entry.name}: a setting must read name=value, got {setting!r}.")
        if key == "schedule":
            schedule = check_schedule(value)
        elif ".." in value:
            ranges[key] = _range(entry, key, value)
        else:
            settings[key] = _value(entry, key, value)
    try:
        rule = entry.rule.with_(**settings)
        for key, within in ranges.items():
            entry.rule.with_(**{key: within.low})
            entry.rule.with_(**{key: within.high})
    except KeywordError as error:
        made_of = entry.rule.name if isinstance(entry.rule, Rule) else entry.rule.path
        raise KeywordError(str(error).replace(made_of, entry.name, 1)) from None
    return replace(
        entry,
        name=text,
        rule=rule,
        pinned=(entry.pinned | settings.keys()) - ranges.keys(),
        ranges=ranges,
        schedule=schedule,
        recommended={} if entry.recommended.keys() & settings.keys() else entry.recommended,
    )


def _wrapped(kind: type[Wrapper], around: Contender) -> Contender:
    return replace(around, rule=kind(_ours(around)), about=kind.summary(), recommended={})


def _together(how: str, *parts: Contender) -> Contender:
    """Several contenders as one: side by side, or one after the other."""
    for one in parts:
        if one.full_batch:
            raise SettingError(f"{one.name}: a step on the full batch must be that of all parameters. Use sgd, say.")
    rule = combine_rules(how, *map(_ours, parts))
    assert isinstance(rule, CompositeRule)
    others = [(f"{name}_", one) for name, one in zip(rule.member_names[1:], parts[1:], strict=True)]
    pinned = parts[0].pinned.union(*({prefix + name for name in one.pinned} for prefix, one in others))
    ranges = {prefix + name: within for prefix, one in others for name, within in one.ranges.items()}
    names = [one.name for one in parts]
    about = f"{names[0]}, then {names[-1]}"
    if how == "+":
        about = f"{' and '.join(names[:-1])} for hidden matrices, {names[-1]} for all else"
        step = parts[-1].rule.hypers()["lr"].search if "adjust_lr_fn" in rule.hypers() else None
        ranges |= {} if step is None else {"lr": step}
    return replace(
        parts[0],
        rule=rule,
        about=about,
        pinned=pinned,
        ranges=ranges | dict(parts[0].ranges),
        recommended={},
    )


def _ours(contender: Contender) -> Rule:
    if isinstance(contender.rule, ExternalOptimizer):
        raise SettingError(
            f"thalweg: what is wrapped or put beside another must be thalweg's own, got {contender.name!r}. "
            "Write adamw, say."
        )
    return contender.rule


def _range(entry: Contender, key: str, text: str) -> Range:
    """The range `1e-4..1e-1`, on the scale that is declared; an undeclared one is logarithmic where it is wide."""
    low, _, high = text.partition("..")
    ends = float(_value(entry, key, low)), float(_value(entry, key, high))
    if not ends[0] < ends[1]:
        raise SettingError(f"{entry.name}: {key} must be a range low..high, got {text!r}.")
    known = entry.rule.hypers().get(key)
    if known is not None and known.search is not None:
        if known.search.scale == "log" and ends[0] <= 0:
            raise SettingError(f"{entry.name}: {key} is searched in its logarithm, so low must be > 0, got {text!r}.")
        if known.search.scale == "log-to-one" and ends[1] >= 1:
            raise SettingError(
                f"{entry.name}: {key} is searched by its distance to 1, so high must be < 1, got {text!r}."
            )
        return replace(known.search, low=ends[0], high=ends[1])
    return Range(*ends, "log" if 0 < ends[0] * _WIDE <= ends[1] else "linear")


def _value(entry: Contender, key: str, text: str) -> Any:
    declared = entry.rule.hypers().get(key)
    if declared is not None and declared.kind == "choice":
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        raise SettingError(f"{entry.name}: {key} must be a number, true or false, got {text!r}.") from None
    return int(value) if declared is not None and declared.kind == "count" and value.is_integer() else value


def split_list(text: str) -> list[str]:
    """The contenders in a comma-separated list; `adam:beta2=0.95,eps=1e-6,clip(sgd)` holds two."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        inside = bool(found) and found[-1].count("(") > found[-1].count(")")
        if inside or (found and "=" in part and ":" not in part):
            found[-1] += "," + part
        else:
            found.append(part)
    return found


def resolve(contenders: Iterable[str | Rule | Contender | Callable[..., Any]]) -> list[Contender]:
    """The contenders a user means: names with settings, rules, classes, functions or contenders; each at most once."""
    if isinstance(contenders, str):
        contenders = split_list(contenders)
    found: dict[str, Contender] = {}
    for given in contenders:
        if isinstance(given, str):
            contender = parse(given)
        elif isinstance(given, Contender):
            contender = given
        elif isinstance(given, Rule):
            contender = _of_rule(given)
        elif isinstance(given, type) and issubclass(given, Rule):
            contender = _of_rule(given())
        elif callable(given):
            contender = _of_foreign(external_optimizer(given, path_of(given)))
        else:
            raise SettingError(
                f"thalweg: a contender must be a name, a rule, a class, a function or a Contender, got "
                f"{type(given).__name__}. Pass 'adamw', say, or thalweg.rules.AdamW()."
            )
        if contender.name in found:
            raise SettingError(f"thalweg: each contender must be named once, got {contender.name!r} twice.")
        found[contender.name] = contender
    if not found:
        raise SettingError("thalweg: at least one contender must be given, got none. Pass ['sgd', 'adamw'], say.")
    return list(found.values())


def _of_foreign(found: ExternalOptimizer) -> Contender:
    return Contender(found.path, found, "an optimizer from elsewhere")


def _of_rule(rule: Rule) -> Contender:
    """A rule as a contender: what differs from the library's default was meant, and is pinned."""
    kind = type(rule)
    for name, value in rule.settings().items():
        if isinstance(value, torch.Tensor):
            raise SettingError(f"{rule.name}: {name} must be a number to compete, got a tensor. Pass float(value).")
    default = rule.at_defaults().settings()
    changed = {name: value for name, value in rule.settings().items() if value != default[name]}
    texts = [
        f"{name}={str(value).lower() if isinstance(value, bool) else f'{value:g}'}" for name, value in changed.items()
    ]
    name = (name_of_rule(rule) if isinstance(rule, Wrapper | CompositeRule) else None) or kind.__name__.lower()
    name += ":" + ",".join(texts) if texts else ""
    return Contender(name, rule, kind.summary(), frozenset(changed))
