"""Parsing: from the text, rule, class or function that a user writes to a contender.

The forms of a text::

    adam                            a rule at its defaults
    AdamW                           a rule by the name of its class
    adam:beta2=0.95,lr=1e-4..1e-2   a setting pinned, another searched in a range of the user's
    lbfgs:history_size=5..50        a whole number, of which only whole numbers are tried
    lbfgs:line_search_fn=fixed      a setting that is a word
    adam:schedule=cosine            with a schedule of its own (`none` for optimizers that need none)
    cautious(adamw)                 a wrapper around it; settings may follow: clip(sgd):max_norm=0.5
    muon+adamw                      hidden matrices by the first, all else by the second (thalweg.optim.route)
    named(d=sgd,g=adam)             several optimizers in one training, make_optimizer(model, name="d"), each its own
    then(adam,sgd):switch_at=500    the first for so many steps, then the second, which may be lbfgs
    then(adam,sgd,switch_at=500)    the same; settings of a wrapper may stand inside its parentheses too
    torch.optim:NAdam:lr=1e-4..1    a class of torch's form, by module and name; torch.optim.NAdam is the same
    path/to/file.py:make            a function (params, lr=...) of the user's
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings
from thalweg.comparison.contenders.external import ExternalOptimizer, external_optimizer, load_optimizer, path_of
from thalweg.comparison.contenders.members import PREFIX, parse_members, with_members
from thalweg.comparison.contenders.named import CONTENDERS, RECOMMENDED, short_name, summary_of
from thalweg.comparison.contenders.schedule import check_schedule
from thalweg.comparison.contenders.setting_texts import (
    assignments_of,
    check_range_of_user,
    parse_range,
    parse_value,
    split_assignment,
)
from thalweg.errors import KeywordError, SettingError, UnknownNameError, nearest, shown
from thalweg.optim import RuleOptimizer
from thalweg.registry import combine_rules, name_of_rule, parse_expression, split_at
from thalweg.rules import Range, Rule, Wrapper
from thalweg.rules.composition.composite import CompositeRule

ContenderLike = str | Rule | Contender | Callable[..., Any] | Mapping[str, Any]  # as users name one
MAX_CONTENDERS = 100  # of a comparison; an interval for each of more would say nothing
MAX_TEXT = 20_000  # characters of the text of a contender
MAX_LIST = 100_000  # characters of a list of contenders


def parse(text: str) -> Contender:
    """Parse a contender.

    Args:
        text: A name with settings, an expression of names or a path; the top of this file shows the forms.

    Raises:
        UnknownNameError: If no optimizer has this name.
        KeywordError: If the optimizer has no such setting.
        SettingError: If a setting cannot be read or is out of bounds.

    Example:
        >>> contender = parse("adam:beta2=0.95,lr=1e-4..1e-2")
        >>> contender.rule.beta2, contender.space(1)["lr"].high
        (0.95, 0.01)
    """
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise UnknownNameError(
            f"thalweg: the text of a contender must have at most {MAX_TEXT:,} characters, got {len(text):,}: "
            f"{shown(text)}."
        )
    if text.startswith(PREFIX):
        return parse_members(text, parse)
    base, *rest = _parts(text)
    text, assignments = ":".join((base, *rest)), ":".join(rest)
    if any(mark in base for mark in "(+"):
        contender = parse_expression(base, parse, _wrap, _combine)
        contender = replace(contender, name=base, recommended=RECOMMENDED.get(base, {}))
    elif base in CONTENDERS:
        contender = CONTENDERS[base]
    elif rest:
        name, _, assignments = assignments.partition(":")
        contender = _load(f"{base}:{name}")
    else:
        raise UnknownNameError(
            f"thalweg: no optimizer is called {shown(base)}. {nearest(base, CONTENDERS)} "
            "Others are written module:Class, as torch.optim:NAdam."
        )
    return _with_assignments(contender, text, assignments)


def with_user_settings(contenders: Sequence[Contender], texts: Sequence[str]) -> list[Contender]:
    """Return contenders with settings of the user's, which enter their searches first.

    Args:
        contenders: The contenders of a comparison.
        texts: The name of a contender and settings, such as ``"adamw:lr=3e-4,beta1=0.95"``; several may be for one.
            The name of an optimizer is enough if only one contender has it: ``adamw`` for ``adamw:beta1=0.95``.

    Raises:
        UnknownNameError: If no contender has a name, or several have it.
        KeywordError: If a contender has no such setting.
        SettingError: If a setting cannot be read, is out of bounds or of a range of the user's, or is fixed.
    """
    added: dict[str, list[Settings]] = {contender.name: [] for contender in contenders}
    for text in texts:
        base, mark, rest = text.partition(":")
        spellings = {text, short_name(base.strip()) + mark + rest}
        named = [
            (contender, known[len(contender.name) :])
            for contender in contenders
            for known in spellings
            if known.startswith(contender.name) and known[len(contender.name) :][:1] in ("", ":", ",")
        ]
        if not named:
            head, settings = _divided(text)
            named = [(contender, f":{settings}") for contender in contenders if _divided(contender.name)[0] == head]
            if len(named) > 1:
                names = " and ".join(contender.name for contender, _ in named)
                raise UnknownNameError(
                    f"thalweg: a setting to start from must be for one contender, got {text!r}, which may be for "
                    f"{names}. {_example_of_start(named[0][0])}"
                )
        if not named:
            raise UnknownNameError(
                f"thalweg: a setting to start from must begin with the name of a contender, got {text!r}. "
                f"{nearest(base, added)} {_example_of_start(contenders[0])}"
            )
        contender, settings = max(named, key=lambda pair: len(pair[0].name))
        if not settings[1:].strip():
            raise SettingError(
                f"thalweg: a setting to start from must have a value, got {text!r}. {_example_of_start(contender)}"
            )
        added[contender.name].append(_parse_settings(contender, settings[1:]))
    return [
        replace(contender, user_settings=(*contender.user_settings, *added[contender.name])) for contender in contenders
    ]


def _divided(text: str) -> tuple[str, str]:
    """Return the optimizer in the text of a contender, and its settings."""
    base, *rest = _parts(text.strip())
    names = [part for part in rest if "=" not in part]
    return ":".join([base, *names]), ",".join(part for part in rest if part not in names)


def _example_of_start(contender: Contender) -> str:
    """Return a sentence that shows how a setting to start from is written."""
    searched = contender.space(MAX_ORDER)
    if not searched:
        return f"{contender.name} searches nothing, so nothing can be tried first."
    name = "lr" if "lr" in searched else next(iter(searched))
    return f"Write {contender.name}:{name}={contender.start_settings()[name]}, say."


def _parse_settings(contender: Contender, text: str) -> Settings:
    """Parse ``lr=3e-4,beta1=0.95`` as a point of the search of a contender."""
    settings: Settings = {}
    for key, value in map(split_assignment, assignments_of(contender, text)):
        optimizer, _, name = key.rpartition(".")  # of the setting of one of several optimizers, d.lr
        owner = _owner(contender, optimizer, name)
        if name in owner.pinned:
            raise SettingError(f"{contender.name}: {key} is fixed, so no search can start from {value}. Leave it out.")
        if key in contender.task_settings:
            tunable = contender.task_settings[key]
            if tunable.search is None:
                raise SettingError(
                    f"{contender.name}: {key} is fixed at {tunable.default}, so no search can start from {value}. "
                    "Leave it out."
                )
            settings[key] = tunable.value(tunable.parsed(value))
            tunable.check_start(settings[key], f"{contender.name}: {key}")
        else:
            settings[key] = parse_value(owner, name, value)
            owner.rule.with_(**{name: settings[key]})
            check_range_of_user(contender, owner, key, settings[key])
        bounds = contender.space(MAX_ORDER).get(key)
        if bounds is not None and bounds.scale == "log" and settings[key] <= 0:
            raise SettingError(f"{contender.name}: {key} is searched in its logarithm, so it must be > 0, got {value}.")
    return settings


def _owner(contender: Contender, optimizer: str, setting: str) -> Contender:
    """Return the contender that has a setting: that of an optimizer, or the first one that knows it."""
    if optimizer in contender.members:
        return contender.members[optimizer]
    return next((member for member in contender.members.values() if setting in member.rule.hypers()), contender)


def _parts(text: str) -> list[str]:
    """Split a text at its colons. A class name becomes a short name, and ``package.Class`` becomes two parts."""
    base, *rest = split_at(text, ":")
    module, _, name = base.rpartition(".")
    if module and name != "py" and base.replace(".", "").isidentifier() and (not rest or "=" in rest[0]):
        return [module, name, *rest]
    return [short_name(base), *rest]


def _with_assignments(contender: Contender, name: str, assignments: str) -> Contender:
    """Return the contender under a new name with settings, ranges and a schedule: ``beta2=0.95,lr=1e-4..1e-2``."""
    settings: dict[str, Any] = {}
    ranges: dict[str, Range] = {}
    schedule = contender.schedule
    for key, value in map(split_assignment, assignments_of(contender, assignments)):
        if key == "schedule":
            schedule = check_schedule(value)
        elif ".." in value:
            ranges[key] = parse_range(contender, key, value)
        else:
            settings[key] = parse_value(contender, key, value)
    try:
        rule = contender.rule.with_(**settings)
        for key, bounds in ranges.items():  # both ends must be allowed
            contender.rule.with_(**{key: bounds.low})
            contender.rule.with_(**{key: bounds.high})
    except KeywordError as error:
        raise KeywordError(str(error).replace(contender.rule.name, contender.name, 1)) from None
    return replace(
        contender,
        name=name,
        rule=rule,
        pinned=(contender.pinned | settings.keys()) - ranges.keys(),
        ranges={key: bounds for key, bounds in contender.ranges.items() if key not in settings} | ranges,
        schedule=schedule,
        recommended={} if contender.recommended.keys() & settings.keys() else contender.recommended,
    )


def _wrap(kind: type[Wrapper], contender: Contender) -> Contender:
    return replace(contender, rule=kind(_rule_of(contender)), about=summary_of(kind), recommended={})


def _combine(operator: str, *parts: Contender) -> Contender:
    """Combine contenders: ``+`` divides the parameters among them, ``then`` runs them one after the other."""
    # A rule with a line search takes over on the full batch.
    ends_on_full_batch = operator == "then" and parts[-1].full_batch and _needs_closure(parts[-1])
    for part in parts[: -1 if ends_on_full_batch else None]:
        if part.full_batch:
            raise SettingError(
                f"{part.name}: an optimizer on the full batch cannot be combined with another. Use sgd, say."
            )
    first, last = parts[0], parts[-1]
    rule = combine_rules(operator, *map(_rule_of, parts))
    assert isinstance(rule, CompositeRule)
    prefixed = [(f"{name}_", part) for name, part in zip(rule.member_names[1:], parts[1:], strict=True)]
    for prefix, part in prefixed:
        _check_own_settings(prefix, part, rule)
    pinned = first.pinned.union(*({prefix + name for name in part.pinned} for prefix, part in prefixed))
    ranges = {prefix + name: bounds for prefix, part in prefixed for name, bounds in part.ranges.items()}
    if operator == "+":
        names = [part.name for part in parts]
        about = f"{' and '.join(names[:-1])} for hidden matrices, {last.name} for all else"
        lr_range = last.rule.hypers()["lr"].search if "adjust_lr_fn" in rule.hypers() else None
        ranges |= {} if lr_range is None else {"lr": lr_range}
    else:
        about = f"{first.name}, then {last.name}{' on the full batch' if ends_on_full_batch else ''}"
    ranges |= first.ranges
    return replace(
        first,
        rule=rule,
        about=about,
        pinned=pinned,
        ranges=ranges,
        recommended={},
        ends_on_full_batch=ends_on_full_batch,
    )


def _check_own_settings(prefix: str, part: Contender, rule: CompositeRule) -> None:
    """Raise SettingError if a text sets a setting of a later rule that all rules of a composite share."""
    if ":" not in part.name:
        return
    for name in sorted(part.pinned | part.ranges.keys()):
        if prefix + name not in rule.hypers():
            ratio = ", and its ratio: lr_ratio=10" if name == "lr" else ""
            raise SettingError(
                f"{rule.name}: {name} must be set once, since the rules share it, got {shown(part.name)}. "
                f"Set it at the first rule{ratio}."
            )


def _needs_closure(contender: Contender) -> bool:
    return contender.thalweg_rule is not None and contender.thalweg_rule.traits.needs == "closure"


def _rule_of(contender: Contender) -> Rule:
    """Return the rule of a contender that is wrapped or combined; raise SettingError for an external optimizer."""
    rule = contender.thalweg_rule
    if rule is None:
        raise SettingError(
            f"thalweg: an optimizer that is wrapped or combined must be thalweg's own, got {contender.name!r}. "
            "Write adamw, say."
        )
    return rule


def split_list(text: str) -> list[str]:
    """Split a comma-separated list of contenders; commas between settings and inside parentheses do not split.

    Example:
        >>> split_list("adam:beta2=0.95,eps=1e-6,clip(sgd)")
        ['adam:beta2=0.95,eps=1e-6', 'clip(sgd)']
    """
    if len(text) > MAX_LIST:
        raise SettingError(f"thalweg: a list of names must have at most {MAX_LIST:,} characters, got {len(text):,}.")
    items: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        inside = bool(items) and items[-1].count("(") > items[-1].count(")")
        if inside or (items and "=" in part and not set(":(") & set(part.partition("=")[0])):
            items[-1] += "," + part
        else:
            items.append(part)
    return items


def resolve(contenders: Iterable[ContenderLike]) -> list[Contender]:
    """Return the contenders of a comparison.

    Args:
        contenders: Names with settings, rules, rule classes, optimizer classes, functions ``(params, lr=...)``,
            contenders, or dictionaries with one of these for each optimizer of a training, ``{"d": "sgd", "g":
            "adam"}``; or a comma-separated list of names.

    Raises:
        SettingError: If there is none, a name stands twice, or an item cannot be a contender.
        UnknownNameError: If no optimizer has a name.
        KeywordError: If an optimizer has no such setting.

    Example:
        >>> [contender.name for contender in resolve(["sgd", torch.optim.NAdam])]
        ['sgd', 'torch.optim:NAdam']
    """
    if isinstance(contenders, str):
        contenders = split_list(contenders)
    contenders = list(islice(contenders, MAX_CONTENDERS + 1))
    if len(contenders) > MAX_CONTENDERS:
        raise SettingError(f"thalweg: at most {MAX_CONTENDERS} contenders can take part, got more. Name fewer of them.")
    resolved: dict[str, Contender] = {}
    for item in contenders:
        contender = _resolve_item(item)
        if contender.name in resolved:
            raise SettingError(f"thalweg: each contender must be named once, got {contender.name!r} twice.")
        resolved[contender.name] = contender
    if not resolved:
        raise SettingError("thalweg: at least one contender must be given, got none. Pass ['sgd', 'adamw'], say.")
    return list(resolved.values())


def _resolve_item(item: Any) -> Contender:
    if isinstance(item, str):
        return parse(item)
    if isinstance(item, Contender):
        return item
    if isinstance(item, Mapping):
        return with_members({name: _resolve_item(member) for name, member in item.items()})
    if isinstance(item, type) and issubclass(item, RuleOptimizer) and "rule" in vars(item):
        item = item.rule
    if isinstance(item, type) and issubclass(item, Rule):
        item = item()
    if isinstance(item, Rule):
        return _from_rule(item)
    if callable(item):
        return _from_external(external_optimizer(item, path_of(item)))
    raise SettingError(
        f"thalweg: a contender must be a name, a rule, a class, a function or a Contender, got "
        f"{type(item).__name__}. Pass 'adamw', say, or thalweg.rules.AdamW()."
    )


def _load(path: str) -> Contender:
    optimizer = load_optimizer(path)
    if isinstance(optimizer, ExternalOptimizer):
        return _from_external(optimizer)
    return replace(_from_rule(optimizer), name=path)


def _from_external(external: ExternalOptimizer) -> Contender:
    return Contender(external.path, external, "an optimizer from elsewhere")


def _from_rule(rule: Rule) -> Contender:
    """Return a rule as a contender; settings that differ from the library's defaults are pinned."""
    kind = type(rule)
    for name, value in rule.settings().items():
        if isinstance(value, torch.Tensor):
            raise SettingError(f"{rule.name}: {name} must be a number to compete, got a tensor. Pass float(value).")
    default = rule.at_defaults().settings()
    changed = {name: value for name, value in rule.settings().items() if value != default[name]}
    texts = [f"{name}={_as_text(value)}" for name, value in changed.items()]
    name = (name_of_rule(rule) if isinstance(rule, Wrapper | CompositeRule) else None) or kind.__name__.lower()
    name += ":" + ",".join(texts) if texts else ""
    return Contender(name, rule, summary_of(kind), frozenset(changed))


def _as_text(value: Any) -> str:
    """Return the value of a setting as ``--with`` takes it."""
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
