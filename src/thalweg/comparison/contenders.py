"""Contenders: what competes. A rule with some settings pinned; the others are searched."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

import thalweg.optim
from thalweg import rules
from thalweg.engine.precision import compute_dtype
from thalweg.errors import KeywordError, SettingError, UnknownNameError, nearest
from thalweg.optim import keywords
from thalweg.rules import Range, Rule


@dataclass(frozen=True)
class Contender:
    """A named entry in a comparison: a rule at its starting settings, which of them are pinned, and its batch.

    With `full_batch` a step sees the whole training data, so a pass over them is a single step.
    """

    name: str
    rule: Rule
    about: str = ""
    pinned: frozenset[str] = field(default_factory=frozenset)
    full_batch: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict)  # where they are not those that the rule declares

    def space(self, order: int) -> dict[str, Range]:
        """The ranges to search: settings that open by this `order` and are not pinned."""
        return {
            name: self.ranges.get(name, declared.search)
            for name, declared in self.rule.hypers().items()
            if declared.search is not None and declared.order <= order and name not in self.pinned
        }

    def keeping_the_optimum(self) -> "Contender":
        """This contender for a task whose optimum is known: what moves the optimum (weight decay) is off.

        A setting that a user pinned stays as it is.
        """
        moving = {name for name, one in self.rule.hypers().items() if one.moves_optimum} - self.pinned
        return replace(self, rule=self.rule.with_(**dict.fromkeys(moving, 0.0)), pinned=self.pinned | moving)

    def optimizer(self, params: Iterable[Any], settings: Mapping[str, float]) -> torch.optim.Optimizer:
        """A torch optimizer at these settings."""
        rule = self.rule.with_(**settings)
        return thalweg.optim.optimizer_for(type(rule))(params, **keywords.from_rule(rule))

    def state_bytes(self, model: nn.Module) -> int:
        """Bytes of optimizer state for this model, the step counters left out."""
        return sum(
            self.rule.state_numel(param.shape) * compute_dtype(param.dtype).itemsize
            for param in model.parameters()
            if param.requires_grad
        )

    def described(self) -> dict[str, Any]:
        """Everything a report needs to know, as plain JSON: the store must do without the code of the rule."""
        declared = self.rule.hypers()
        made_of = type(self.rule).__name__
        return {
            "name": self.name,
            "about": self.about,
            "optimizer": made_of if made_of in thalweg.optim.__all__ else f"optimizer_for({made_of})",
            "full_batch": self.full_batch,
            "start": self.rule.settings(),
            "defaults": {name: hyper.default for name, hyper in declared.items()},
            "keywords": keywords.members(type(self.rule)),
            "space": {name: asdict(found) for name, found in self.space(3).items()},
            # Of what the result depends on most: a choice at the end of its range is worth a remark.
            "remarkable": list(self.space(2)),
            "state_numbers": self.rule.state_numel(torch.Size([64, 64])) // 4096,
        }


def line_of_code(described: Mapping[str, Any], settings: Mapping[str, float]) -> str:
    """The line to paste for a described contender at these settings; library defaults are left out."""
    values, defaults = {**described["start"], **settings}, described["defaults"]
    arguments = ["model.parameters()"]
    for keyword, names in described["keywords"].items():
        if any(values[name] != defaults[name] for name in names):
            texts = [repr(values[name]) for name in names]
            arguments.append(f"{keyword}={texts[0] if names == [keyword] else '(' + ', '.join(texts) + ')'}")
    line = f"optimizer = thalweg.optim.{described['optimizer']}({', '.join(arguments)})"
    return line + "  # a step on the full batch" if described["full_batch"] else line


# What goes without saying in a name is pinned: `sgd` has no momentum to search.
_ENTRIES = (
    Contender("gd", rules.SGD(), "gradient descent: plain SGD on the full batch", frozenset({"momentum"}), True),
    Contender("sgd", rules.SGD(), "stochastic gradient descent, no momentum", frozenset({"momentum"})),
    Contender("momentum", rules.SGD(momentum=0.9), "SGD with momentum (heavy ball)"),
    Contender("nesterov", rules.SGD(momentum=0.9, nesterov=True), "SGD with Nesterov's momentum"),
    Contender("adagrad", rules.AdaGrad(), rules.AdaGrad.__doc__ or ""),
    Contender("rmsprop", rules.RMSprop(), "RMSprop without momentum", frozenset({"momentum"})),
    Contender("adam", rules.Adam(), rules.Adam.__doc__ or ""),
    Contender("adamw", rules.AdamW(), rules.AdamW.__doc__ or ""),
)
CONTENDERS: dict[str, Contender] = {entry.name: entry for entry in _ENTRIES}

DEFAULT = ("gd", "sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")


def parse(text: str) -> Contender:
    """The contender that a name with settings means: `adam`, or `adam:beta2=0.95,eps=1e-6`, which pins those two."""
    name, _, tail = text.strip().partition(":")
    if name not in CONTENDERS:
        raise UnknownNameError(f"thalweg: no optimizer is called {name!r}. {nearest(name, CONTENDERS)}")
    entry = CONTENDERS[name]
    settings: dict[str, Any] = {}
    for setting in filter(None, (part.strip() for part in tail.split(","))):
        key, equals, value = setting.partition("=")
        if not equals:
            raise SettingError(f"{name}: a setting must read name=value, got {setting!r}.")
        settings[key.strip()] = _value(name, key.strip(), value.strip())
    if not settings:
        return entry
    try:
        rule = entry.rule.with_(**settings)
    except KeywordError as error:
        raise KeywordError(str(error).replace(type(entry.rule).__name__, name, 1)) from None
    return replace(entry, name=text.strip(), rule=rule, pinned=entry.pinned | settings.keys())


def _value(name: str, key: str, text: str) -> float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        raise SettingError(f"{name}: {key} must be a number, true or false, got {text!r}.") from None


def split_list(text: str) -> list[str]:
    """The contenders in a comma-separated list; `adam:beta2=0.95,eps=1e-6,sgd` holds two."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if found and "=" in part and ":" not in part:
            found[-1] += "," + part
        else:
            found.append(part)
    return found


def resolve(contenders: Iterable[str | Rule | Contender]) -> list[Contender]:
    """The contenders a user means: names with settings, rules, or contenders; each at most once."""
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
        else:
            raise SettingError(
                f"thalweg: a contender must be a name, a rule or a Contender, got {type(given).__name__}. "
                "Pass 'adamw', say, or thalweg.rules.AdamW()."
            )
        if contender.name in found:
            raise SettingError(f"thalweg: each contender must be named once, got {contender.name!r} twice.")
        found[contender.name] = contender
    if not found:
        raise SettingError("thalweg: at least one contender must be given, got none. Pass ['sgd', 'adamw'], say.")
    return list(found.values())


def _of_rule(rule: Rule) -> Contender:
    """A rule as a contender: what differs from the library's default was meant, and is pinned."""
    kind = type(rule)
    for name, value in rule.settings().items():
        if isinstance(value, torch.Tensor):
            raise SettingError(f"{kind.__name__}: {name} must be a number to compete, got a tensor. Pass float(value).")
    default = kind().settings()
    changed = {name: value for name, value in rule.settings().items() if value != default[name]}
    texts = [
        f"{name}={str(value).lower() if isinstance(value, bool) else f'{value:g}'}" for name, value in changed.items()
    ]
    name = kind.__name__.lower() + (":" + ",".join(texts) if texts else "")
    return Contender(name, rule, kind.__doc__ or "", frozenset(changed))
