"""Routing: which rule each parameter of a model follows, at which learning rate and weight decay, and why.

A plan to be read before training: print it. `optimizer()` makes it true.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from thalweg.errors import KeywordError, ParameterTypeError, RoutingError, SettingError, nearest
from thalweg.optim import keywords
from thalweg.optim.optimizer import RuleOptimizer, optimizer_for
from thalweg.optim.routing.roles import MATRICES, ROLES, UNDECAYED, Part, Role, roles_of
from thalweg.optim.setting_warnings import warn
from thalweg.registry import combine_rules, rule_from_name
from thalweg.rules import Rule
from thalweg.rules.composition.composite import settings_prefix
from thalweg.rules.composition.routed import Routed
from thalweg.rules.composition.wrapper import unwrap

_COLUMNS = ("parameter", "shape", "role", "rule", "lr", "weight decay", "why")


@dataclass(frozen=True)
class Treatment:
    """What makes of the whole rule that of some of the parameters.

    `settings` say which of the rules, and how a parameter holds its matrices.
    """

    settings: tuple[tuple[str, Any], ...] = ()
    lr_scale: float = 1.0
    decay_scale: float = 1.0

    def of(self, whole: Rule) -> Rule:
        """The rule of these parameters."""
        if self == UNCHANGED:
            return whole
        scales = {"lr": self.lr_scale, "weight_decay": self.decay_scale}
        scales = {name: scale for name, scale in scales.items() if scale != 1 and name in whole.hypers()}
        own = whole.settings() if scales else {}
        return whole.with_(**dict(self.settings), **{name: own[name] * scale for name, scale in scales.items()})


UNCHANGED = Treatment()  # all parameters follow the whole rule as it is


@dataclass(frozen=True, eq=False)
class Assigned:
    """What is to be done with one parameter, and why. The role is None where it must be asked for."""

    name: str
    param: Tensor
    role: Role | None
    rule: str
    why: str
    treatment: Treatment

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return tuple(self.param.shape)


@dataclass(frozen=True, repr=False, eq=False)
class RoutingPlan:
    """Every trained parameter of a model, once, with what is to be done with it."""

    rule: Rule
    parameters: tuple[Assigned, ...]
    frozen: int  # parameters that are not trained

    @property
    def questions(self) -> list[Assigned]:
        """The parameters whose role nothing tells."""
        return [one for one in self.parameters if one.role is None]

    def _ask(self) -> None:
        if self.questions:
            asked = "\n".join(f"    {one.name}  {_shape(one.shape)}: {one.why}" for one in self.questions)
            raise RoutingError(
                f"route: the role of every parameter must be known, got {len(self.questions)} that nothing tells:\n"
                f"{asked}\nSay what each is, roles={{{self.questions[-1].name!r}: 'head'}} for instance; headless=True "
                "says that those which may be last layers are none."
            )

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimizer, with names. Raises RoutingError while there are questions."""
        return [
            {"params": [(one.name, one.param) for one in ones], **keywords.from_rule(treatment.of(self.rule))}
            for treatment, ones in self.treatments().items()
        ]

    def treatments(self) -> dict[Treatment, list[Assigned]]:
        """The parameters that are treated alike."""
        self._ask()
        found: dict[Treatment, list[Assigned]] = {}
        for one in self.parameters:
            found.setdefault(one.treatment, []).append(one)
        return found

    def optimizer(self, **common: Any) -> RuleOptimizer:
        """One optimizer for the whole model.

        Args:
            common: what every optimizer takes besides its rule's settings (maximize, rounding, seed, way)

        """
        if unknown := common.keys() - keywords.COMMON.keys():
            raise KeywordError(
                f"RoutingPlan: optimizer() takes {', '.join(keywords.COMMON)}, got {', '.join(sorted(unknown))}. "
                "Settings are given to route()."
            )
        made = optimizer_for(self.rule.at_defaults())
        return made(self.groups(), **keywords.from_rule(self.rule), **common)

    def __str__(self) -> str:
        """A table with a line for each parameter; those of repeated blocks share one."""
        alike: dict[Any, list[Assigned]] = {}
        for one in self.parameters:
            key = (re.sub(r"\d+", "#", one.name), one.shape, one.role, one.treatment, one.why)
            alike.setdefault(key, []).append(one)
        rows = [_COLUMNS, *(_row(self.rule, ones) for ones in alike.values())]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_COLUMNS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        numel = sum(one.param.numel() for one in self.parameters)
        left = f"; {self.frozen} frozen ones are left out" if self.frozen else ""
        lines.append(f"{len(self.parameters)} parameters, {numel:,} numbers{left}.")
        if self.questions:
            lines.append(f"{len(self.questions)} to be asked: say their roles, roles={{name: role}}.")
        return "\n".join(lines)

    __repr__ = __str__


Routing = RoutingPlan  # the name of before


def route(
    model: nn.Module,
    rule: str | Rule | type[Rule] = "muon",
    rest: str | Rule | type[Rule] | None = None,
    *,
    roles: Mapping[str, str] | None = None,
    headless: bool = False,
    lr_scale: Mapping[str, float] | None = None,
    decay_scale: Mapping[str, float] | None = None,
    **settings: Any,
) -> RoutingPlan:
    """Plan which rule each parameter of a model follows: hidden matrices the first, all others the second.

    Args:
        model: any module; parameters that require no gradient are left out
        rule: for hidden matrices and convolutions: a name (`muon`, `cautious(soap)`), a rule, or rules side by side
            (`muon+adamw`, `Routed`). A rule that takes no matrices is for all parameters
        rest: for embeddings, heads, norms, biases and what else is no hidden matrix; AdamW by default
        roles: answers, by name or pattern of names: `{"*.qkv.weight": "fused qkv"}`; they go before all else
        headless: the model has no last layer of its own, as a backbone
        lr_scale: factors of the learning rate, by role or by name of a rule: `{"embedding": 10, "adamw": 0.3}`
        decay_scale: factors of the weight decay, likewise; norms, biases and scales have 0 unless this says otherwise
        settings: of the rules, under torch's keywords: `lr` and `weight_decay` are everybody's, others the first
            rule's; the second's have its name in front (`adamw_betas`)

    Returns a RoutingPlan: print it, and call its `optimizer()`. Roles are told from the types of modules, ties,
    shapes and, last, names. What cannot be told is in `questions`, and `optimizer()` asks for it.

    Muon named by a text moves parameters as far as AdamW does at the same learning rate (Liu et al. 2025,
    arXiv:2502.16982). Otherwise the learning rates of the two keep the ratio of their defaults, or of the objects that
    were given. Weight decay is the first rule's. With `lr_scale` by role and by rule, both factors count.

    """
    if not isinstance(model, nn.Module):
        raise ParameterTypeError(
            f"route: model must be a module, whose parts tell what its parameters are for, got {type(model).__name__}. "
            "Pass the model itself."
        )
    if common := settings.keys() & keywords.COMMON.keys():
        raise KeywordError(f"route: {', '.join(sorted(common))} must be given to optimizer(), not to route().")
    whole = _together(rule, rest)
    whole = keywords.to_rule(whole, keywords.bind(whole, (), settings))
    parts = roles_of(model, roles, headless=headless)
    if not parts:
        raise RoutingError("route: the model must have parameters that require a gradient, got none.")
    lr_scale, decay_scale = dict(lr_scale or {}), dict(decay_scale or {})
    known = [*_names(whole), *ROLES]
    for given, factor in itertools.chain(lr_scale.items(), decay_scale.items()):
        if given not in known:
            raise SettingError(f"route: a scale must be of a role or a rule, got {given!r}. {nearest(given, known)}")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor >= 0:
            raise SettingError(f"route: the scale of {given} must be a number >= 0, got {factor!r}.")
    scales = _lr_ratios(whole) | lr_scale, dict.fromkeys(UNDECAYED, 0.0) | decay_scale
    _doubt(whole, decay_scale)
    assigned = tuple(_assigned(whole, part, *scales) for part in parts)
    return RoutingPlan(whole, assigned, sum(not param.requires_grad for param in model.parameters()))


def _doubt(whole: Rule, decay_scale: Mapping[str, float]) -> None:
    """Warn of factors of a weight decay that is not there."""
    decay = whole.settings().get("weight_decay")
    factors = {name: factor for name, factor in decay_scale.items() if factor not in (0, 1)}
    if factors and not decay:
        got = "none" if decay is None else f"weight_decay={decay!r}"
        remedy = "Take a rule that has one" if decay is None else "Give weight_decay"
        warn(
            f"route: decay_scale must have a weight decay to scale, got {factors} and {got}. {remedy}, or leave it out."
        )


def _together(rule: Any, rest: Any) -> Rule:
    """The one rule that is meant."""
    first = _rule(rule)
    if first.parts:
        if rest is not None:
            raise SettingError(f"route: rest must be left out where rule has parts, got {rest!r} beside {first.name}.")
        return first
    if rest is None and not first.traits.needs_whole_matrices:
        return first
    second = _rule("adamw" if rest is None else rest)
    return combine_rules("+", first, second) if isinstance(rule, str) else Routed((first, second))


def _names(whole: Rule) -> list[str]:
    """What its rules are called, or it itself where it is one alone."""
    return list(whole.parts) or [settings_prefix(whole)]


def _lr_ratios(whole: Rule) -> dict[str, float]:
    """How the learning rates of rules side by side were to each other when they were put together."""
    core = unwrap(whole)
    return dict(zip(core.member_names, core.lr_ratios, strict=True)) if isinstance(core, Routed) else {}


def _rule(given: Any) -> Rule:
    if isinstance(given, str):
        return rule_from_name(given)
    made = given() if isinstance(given, type) and issubclass(given, Rule) else given
    if not isinstance(made, Rule):
        raise SettingError(f"route: a rule must be a name or a rule, got {given!r:.60}. Pass 'muon', say.")
    return made


def _assigned(whole: Rule, part: Part, lr_scale: Mapping[str, float], decay_scale: Mapping[str, float]) -> Assigned:
    settings: dict[str, Any] = {}
    names = _names(whole)
    name = names[0] if part.role in MATRICES else names[-1]
    if whole.parts:
        settings = {"rule": name}
    if name == names[0] and part.blocks.keys() <= whole.hypers().keys():
        settings |= part.blocks
    role = part.role or ""
    lr = lr_scale.get(name, 1.0) * lr_scale.get(role, 1.0)
    decay = decay_scale.get(role, decay_scale.get(name, 1.0))
    return Assigned(part.name, part.param, part.role, name, part.why, Treatment(tuple(settings.items()), lr, decay))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _row(whole: Rule, alike: list[Assigned]) -> tuple[str, ...]:
    """A line for parameters of which all but the numbers in their names is alike."""
    one = alike[0]
    settings = one.treatment.of(whole).settings()
    numbers = (f"{settings[name]:g}" if name in settings else "–" for name in ("lr", "weight_decay"))
    blocks = next((f", {value} blocks" for key, value in one.treatment.settings if key.endswith("blocks")), "")
    rule = one.rule + blocks if one.role else "?"
    return _numbered([each.name for each in alike]), _shape(one.shape), one.role or "?", rule, *numbers, one.why


def _numbered(names: list[str]) -> str:
    """`h.0.w`, `h.1.w`, `h.2.w` as `h.0-2.w (3)`."""
    if len(names) == 1:
        return names[0]
    texts = [re.split(r"(\d+)", name) for name in names]
    columns = [sorted({int(text[k]) for text in texts}) if k % 2 else texts[0][k] for k in range(len(texts[0]))]
    shown = [_span(one) if isinstance(one, list) else one for one in columns]
    return f"{''.join(shown)} ({len(names)})"


def _span(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))
