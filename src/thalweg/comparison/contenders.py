"""Contenders: what competes. An optimizer with some settings pinned; the others are searched.

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

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

import thalweg.optim
from thalweg import rules
from thalweg.comparison.foreign import Foreign, find, foreign, path_of
from thalweg.comparison.horizon import check_schedule
from thalweg.engine import stacked
from thalweg.engine.precision import compute_dtype
from thalweg.errors import KeywordError, RoutingError, SettingError, UnknownNameError, nearest
from thalweg.optim import keywords
from thalweg.optim.routing import UNCHANGED, Routing, Treatment, route
from thalweg.optim.warned import unwarned, warn
from thalweg.rules import Range, Rule, Wrapper
from thalweg.rules.base.doubts import misfits
from thalweg.rules.base.several import Several
from thalweg.rules.named import RULES, named, put_together, read, spelled, split_at

_T = TypeVar("_T")
_SHAPES = tuple(torch.Size([2] * dim) for dim in range(3))  # that a rule may treat differently


@dataclass(frozen=True)
class Contender:
    """A named entry in a comparison: an optimizer at its starting settings, which of them are pinned, and its batch.

    With `full_batch` a step sees the whole training data, so a pass over them is a single step. `ranges` are searched
    in place of those that are declared; `schedule` replaces that of the comparison. `recommended` are settings to start
    from that do well on many tasks, where they are known.
    """

    name: str
    rule: Rule | Foreign
    about: str = ""
    pinned: frozenset[str] = field(default_factory=frozenset)
    full_batch: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict)
    schedule: str | None = None
    recommended: Mapping[str, float] = field(default_factory=dict)

    def space(self, order: int) -> dict[str, Range]:
        """The ranges to search: settings that open by this `order` and are not pinned, and those with a range given."""
        found = {
            name: self.ranges.get(name, declared.search)
            for name, declared in self.rule.hypers().items()
            if (declared.order <= order or name in self.ranges) and name not in self.pinned
        }
        return {name: within for name, within in found.items() if within is not None}

    @property
    def company(self) -> Hashable:
        """Who may train beside it in one population: elementwise rules, by what a step sees; others by themselves.

        Gradients are most of the time of an elementwise rule's training, so that of one tells that of all.
        """
        rules = (self.rule, *self.rule.parts.values()) if isinstance(self.rule, Rule) else ()
        elementwise = rules and all(rule.scope == "elementwise" for rule in rules)
        return self.full_batch, None if elementwise else self.name

    def keeping_the_optimum(self) -> "Contender":
        """This contender for a task whose optimum is known: what moves the optimum (weight decay) is off.

        A setting that a user pinned stays as it is.
        """
        moving = {name for name, one in self.rule.hypers().items() if one.moves_optimum}
        moving -= self.pinned | self.ranges.keys()
        return replace(self, rule=self.rule.with_(**dict.fromkeys(moving, 0.0)), pinned=self.pinned | moving)

    def optimizer(
        self, model: nn.Module | Iterable[Any], settings: Mapping[str, float], roles: Mapping[str, str] | None = None
    ) -> torch.optim.Optimizer:
        """A torch optimizer at these settings, of a model's trained parameters; or of parameters, unless it routes.

        What a search tries is not doubted: that is for those who choose settings (`warn_of_settings`).
        """
        with unwarned():
            return self._optimizer(model, settings, roles)

    def _optimizer(
        self, model: nn.Module | Iterable[Any], settings: Mapping[str, float], roles: Mapping[str, str] | None
    ) -> torch.optim.Optimizer:
        rule = self.rule.with_(**settings)
        if isinstance(rule, Rule) and rule.parts:
            return self._routed(model, rule, roles, Routing.optimizer)
        if isinstance(model, nn.Module):
            model = [param for param in model.parameters() if param.requires_grad]
        if isinstance(rule, Foreign):
            return rule.optimizer(model)
        return thalweg.optim.optimizer_for(rule.at_defaults())(model, **keywords.from_rule(rule))

    def _routed(self, model: Any, rule: Rule, roles: Mapping[str, str] | None, wanted: Callable[[Routing], _T]) -> _T:
        """What is wanted of the plan of a rule that has parts."""
        if not isinstance(model, nn.Module):
            raise SettingError(
                f"{self.name}: it must see the model, whose parts tell what its parameters are for, got "
                f"{type(model).__name__}. Call make_optimizer(model)."
            )
        try:
            return wanted(route(model, rule, roles=roles))
        except RoutingError as error:
            raise RoutingError(
                f"{self.name}: {error} A task says it by roles=, make_optimizer(model, roles) too."
            ) from None

    def treatments(self, model: nn.Module, roles: Mapping[str, str]) -> dict[Treatment, list[str]]:
        """The names of a model's parameters that are treated alike."""
        assert isinstance(self.rule, Rule), self.name
        if not self.rule.parts:
            return {UNCHANGED: [name for name, param in model.named_parameters() if param.requires_grad]}
        found = self._routed(model, self.rule, roles, Routing.treatments)
        return {treatment: [one.name for one in ones] for treatment, ones in found.items()}

    def warn_of_settings(self) -> None:
        """Warn of settings that a user gave and that contradict what its rule declares."""
        if isinstance(self.rule, Rule):
            for message in misfits(self.rule).values():
                warn(message)

    def rule_at(self, settings: Mapping[str, float]) -> Rule:
        """The rule at these settings, of a contender that has one."""
        rule = self.rule.with_(**settings)
        assert isinstance(rule, Rule), self.name
        return rule

    def program(self, settings: Mapping[str, float]) -> Hashable:
        """What neighbours in a population must share, to be stepped as one."""
        if isinstance(self.rule, Foreign):
            return self.name
        return stacked.program(self.rule_at(settings), _SHAPES)

    @property
    def state_numbers(self) -> int:
        """How many numbers it keeps for each number of a matrix."""
        if isinstance(self.rule, Rule) and self.rule.parts:  # a matrix follows the first
            return next(iter(self.rule.parts.values())).state_numel(torch.Size([64, 64])) // 4096
        return self.rule.state_numel(torch.Size([64, 64])) // 4096

    def state_bytes(self, model: nn.Module, roles: Mapping[str, str]) -> int:
        """Bytes of optimizer state for this model, the step counters left out."""
        params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        if isinstance(self.rule, Foreign):
            kept = [(param, self.rule.state_numel(param.shape)) for param in params.values()]
        else:
            kept = [
                (params[name], treatment.of(self.rule).state_numel(params[name].shape))
                for treatment, names in self.treatments(model, roles).items()
                for name in names
            ]
        return sum(numel * compute_dtype(param.dtype).itemsize for param, numel in kept)

    def described(self, roles: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Everything a report needs to know, as plain JSON: the store must do without the code of the rule."""
        declared = self.rule.hypers()
        arguments, then = "model.parameters()", ""
        defaults = {name: hyper.default for name, hyper in declared.items()}
        if isinstance(self.rule, Rule) and self.rule.parts:
            optimizer, then = "thalweg.optim.route", ".optimizer()"
            name = spelled(self.rule)
            arguments = f"model, {_written(self.rule) if name is None else repr(name)}"
            arguments += f", roles={dict(roles)!r}" if roles else ""
            defaults = (self.rule.at_defaults() if name is None else named(name)).settings()
        elif isinstance(self.rule, Foreign):
            home, _, name = self.rule.path.rpartition(":")
            optimizer = name if home.endswith(".py") else f"{home}.{name}"
        else:
            made_of = type(self.rule).__name__
            ours = made_of if made_of in thalweg.optim.__all__ else f"optimizer_for({_written(self.rule)})"
            optimizer = f"thalweg.optim.{ours}"
        return {
            "name": self.name,
            "about": self.about,
            "optimizer": optimizer,
            "arguments": arguments,
            "then": then,
            "source": self.rule.source() if isinstance(self.rule, Foreign) else "",
            "full_batch": self.full_batch,
            "schedule": self.schedule,
            "start": self.rule.settings(),
            "recommended": dict(self.recommended),
            # The learning rate of another library's is always told: it may have no default.
            "defaults": {
                name: value for name, value in defaults.items() if name != "lr" or isinstance(self.rule, Rule)
            },
            "keywords": keywords.carried(declared),
            "space": {name: asdict(found) for name, found in self.space(3).items()},
            # Of what the result depends on most: a choice at the end of its range is worth a remark.
            "remarkable": list(self.space(2)),
            "state_numbers": self.state_numbers,
        }


def _written(rule: Rule) -> str:
    """A rule of the library's, or of a user's own, as Python."""
    kind = type(rule).__name__
    if isinstance(rule, Several):
        return f"thalweg.rules.{kind}(({', '.join(map(_written, rule.given))}))"
    if isinstance(rule, Wrapper):
        return f"thalweg.rules.{kind}({_written(rule.inner)})"
    return f"thalweg.rules.{kind}()" if kind in rules.__all__ else kind


def line_of_code(described: Mapping[str, Any], settings: Mapping[str, float]) -> str:
    """The line to paste for a described contender at these settings; library defaults are left out."""
    values, defaults = {**described["start"], **settings}, described["defaults"]
    arguments = [described.get("arguments", "model.parameters()")]
    for keyword, names in described["keywords"].items():
        if any(name not in defaults or values[name] != defaults[name] for name in names):
            texts = [repr(values[name]) for name in names]
            arguments.append(f"{keyword}={texts[0] if names == [keyword] else '(' + ', '.join(texts) + ')'}")
    line = f"optimizer = {described['optimizer']}({', '.join(arguments)}){described.get('then', '')}"
    return line + "  # a step on the full batch" if described["full_batch"] else line


# What goes without saying in a name is pinned: `sgd` has no momentum to search.
_ENTRIES = (
    Contender("gd", rules.SGD(), "gradient descent: plain SGD on the full batch", frozenset({"momentum"}), True),
    Contender("sgd", rules.SGD(), "stochastic gradient descent, no momentum", frozenset({"momentum"})),
    Contender("momentum", rules.SGD(momentum=0.9), "SGD with momentum (heavy ball)"),
    Contender("nesterov", rules.SGD(momentum=0.9, nesterov=True), "SGD with Nesterov's momentum"),
    Contender("adagrad", rules.AdaGrad(), rules.AdaGrad.__doc__ or ""),
    Contender("rmsprop", rules.RMSprop(), "RMSprop without momentum", frozenset({"momentum"})),
    Contender("amsgrad", rules.Adam(amsgrad=True), "Adam that divides by the largest mean square so far"),
    # Its own search takes the place of a schedule, and the noise of a mini-batch would be taken for curvature.
    Contender(
        "lbfgs",
        rules.LBFGS(line_search_fn="strong_wolfe"),
        "L-BFGS on the full batch, with a line search",
        frozenset({"lr"}),
        full_batch=True,
        schedule="none",
    ),
    Contender("signsgd", rules.Signum(momentum=0.0), "steps along the sign of the gradient", frozenset({"momentum"})),
    Contender("tiger", rules.Signum(momentum=0.965, weight_decay=0.01), "Signum with much momentum and weight decay"),
)


def _module_of(kind: type) -> str:
    """What an optimizer is called in lists: the name of its file."""
    return kind.__module__.rpartition(".")[2]


# Every other rule competes under the name of its file.
_RULES = [
    # Those that average as they go want no schedule.
    Contender(name, kind(), kind.__doc__ or "", schedule="none" if kind.schedules_itself else None)
    for name, kind in RULES.items()
    if kind is not rules.SGD
]

# Where to start without tuning: good on nine tasks with a linear schedule, as `benchmarks/recommended.py` found them.
# RMSprop's own default was not beaten.
_RECOMMENDED: dict[str, dict[str, float]] = {
    "gd": {"lr": 1.6},
    "sgd": {"lr": 0.59},
    "momentum": {"lr": 0.059, "momentum": 0.952},
    "nesterov": {"lr": 0.031, "momentum": 0.965},
    "adagrad": {"lr": 0.087},
    "adam": {"lr": 0.01, "beta1": 0.973},
    "adamw": {"lr": 0.01, "beta1": 0.973},
}

_WIDE = 10.0  # the least ratio of the ends of a range that is searched in its logarithm
CONTENDERS: dict[str, Contender] = {
    entry.name: replace(entry, recommended=_RECOMMENDED.get(entry.name, {}))
    for entry in sorted({one.name: one for one in (*_RULES, *_ENTRIES)}.values(), key=lambda one: one.name)
}

DEFAULT = ("gd", "sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")


def parse(text: str) -> Contender:
    """The contender that a name means, with its settings; the top of this file shows the forms."""
    text = text.strip()
    head, *rest = split_at(text, ":")
    tail = ":".join(rest)
    if any(mark in head for mark in "(+"):
        entry = read(head, parse, _wrapped, _together)
    elif head in CONTENDERS:
        entry = CONTENDERS[head]
    elif rest:
        name, _, tail = tail.partition(":")
        found = find(f"{head}:{name}")
        entry = _of_foreign(found) if isinstance(found, Foreign) else replace(_of_rule(found), name=f"{head}:{name}")
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
    return replace(around, rule=kind(_ours(around)), about=kind.__doc__ or "", recommended={})


def _together(how: str, *parts: Contender) -> Contender:
    """Several contenders as one: side by side, or one after the other."""
    for one in parts:
        if one.full_batch:
            raise SettingError(f"{one.name}: a step on the full batch must be that of all parameters. Use sgd, say.")
    rule = put_together(how, *map(_ours, parts))
    assert isinstance(rule, Several)
    others = [(f"{name}_", one) for name, one in zip(rule.names[1:], parts[1:], strict=True)]
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
    if isinstance(contender.rule, Foreign):
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
            contender = _of_foreign(foreign(given, path_of(given)))
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


def _of_foreign(found: Foreign) -> Contender:
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
    name = (spelled(rule) if isinstance(rule, Wrapper | Several) else None) or kind.__name__.lower()
    name += ":" + ",".join(texts) if texts else ""
    return Contender(name, rule, kind.__doc__ or "", frozenset(changed))
