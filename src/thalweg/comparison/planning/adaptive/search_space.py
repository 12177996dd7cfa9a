"""Search space of one contender, in coordinates in which contenders resemble one another.

The learning rate is measured in decades from the contender's own starting point. All other settings are measured in
shares of their range. So what is learnt of the learning rate of one contender says something about the others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings, full_name
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULTS_DO_BEST, RECOMMENDED_RECORD
from thalweg.comparison.contenders.named import RECOMMENDED as RECOMMENDED_SETTINGS
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.search import rounded, start_values
from thalweg.comparison.protocol.trial import RECOMMENDED, START, USER_TRIAL
from thalweg.errors import ThalwegError
from thalweg.optim.transfer import transfer
from thalweg.rules import Range, Rule
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.wrapper import Wrapper

RATE_OF_ADAM_RECORD = "benchmarks/records/transfer.json"  # how well rates derived from Adam's do
REFERENCE = "adam"  # from whose starting point others are derived
HIDDEN_MATRIX = (64, 64)  # the shape for which rules of matrices are started; the model is not known here
EXTENSION = 10.0  # a range whose best learning rate lies at its end grows by this factor
MAX_EXTENSIONS = 2  # to each side
APART = 0.5  # distance of two values without an order, in shares of a range: that of the two values of a choice


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search can try for one contender.

    Attributes:
        contender: The name of the contender.
        ranges: The range of each setting that is searched.
        orders: The order of each of these settings: 1 for the learning rate, 2 for the first momentum, 3 for others.
        anchor: The starting point: the value of each searched setting that is expected to do best.
        starts: The settings that enter the search first, by trial number: `START.trial`, `RECOMMENDED.trial`, and from
            `USER_TRIAL` downwards those of the user.
        can_extend: True if the range of the learning rate may be extended.
        task_settings: The settings that are numbers of the task, which all contenders share.
        off: The settings that are off by default, such as weight decay: 0, on a range that does not reach 0.
    """

    contender: str
    ranges: Mapping[str, Range]
    orders: Mapping[str, int]
    anchor: Settings
    starts: Mapping[int, Settings]
    can_extend: bool = False
    task_settings: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()

    @property
    def rates(self) -> list[str]:
        """The learning rates: one, or that of each named optimizer (``d.lr``)."""
        return [name for name in self.ranges if is_rate(name)]

    def column(self, name: str) -> str:
        """Return the name under which a setting is compared with those of other contenders.

        The first momentum is one column, by whatever name; the learning rate is another. Named optimizers have columns
        of their own.
        """
        if name in self.task_settings:
            return name
        optimizer, dot, own = name.rpartition(".")
        kind = "lr" if own == "lr" else {1: "lr", 2: "first momentum"}.get(self.orders[name], own)
        return optimizer + dot + kind

    def columns(self, name: str) -> list[str]:
        """Return the columns of a setting: its own, or one for each of its values if these have no order."""
        bounds = self.ranges[name]
        return (
            [self.column(name)] if bounds.is_ordered else [f"{self.column(name)}={value!r}" for value in bounds.values]
        )

    def places(self, name: str, positions: Any) -> np.ndarray:
        """Return the places of a setting in its columns, ``(positions, columns)``.

        Args:
            name: The setting.
            positions: Positions in its range, ``(positions,)``.
        """
        bounds = self.ranges[name]
        if bounds.is_ordered:
            return np.asarray(self.coordinate(name, np.asarray(positions)))[:, None]
        values = np.array([bounds.values.index(bounds.value_at(place)) for place in positions])
        return APART / math.sqrt(2) * np.eye(len(bounds.values))[values]

    def coordinates(self, settings: Mapping[str, float]) -> dict[str, float]:
        """Return the place of settings relative to the starting point, of those that have an order and are given."""
        return {
            name: self.coordinate(name, self.position_of(name, settings[name]))
            for name, bounds in self.ranges.items()
            if name in settings and bounds.is_ordered
        }

    def position_of(self, name: str, value: Any) -> float:
        """Return the position of a value; that of a learning rate may lie outside of its range."""
        return self.ranges[name].position(_inside(name, self.ranges[name], value))

    def coordinate(self, name: str, position: Any) -> Any:
        """Return the place of one setting, or of an array of them, from positions in its range."""
        bounds = self.ranges[name]
        if bounds.values or bounds.whole:  # the place of the value that is tried, not of the position that led to it
            position = np.vectorize(lambda place: bounds.position(bounds.value_at(place)), otypes=[float])(position)
        origin = self.position_of(name, self.anchor[name])
        decades = math.log10(bounds.high / bounds.low) if is_rate(name) and bounds.scale == "log" else 1.0
        return (position - origin) * decades

    def complete(self, settings: Mapping[str, float]) -> Settings:
        """Return these settings, and the contender's defaults for all others that are searched."""
        return {**self.starts[START.trial], **settings}

    def is_off(self, name: str, value: Any) -> bool:
        """Return True if a setting that is off by default is off at this value: 0, or the low end of its range."""
        return name in self.off and value <= self.ranges[name].low

    def values_at(self, positions: Mapping[str, float]) -> Settings:
        """Return the values at positions, 0 to 1 in the range of each setting."""
        return {name: rounded(self.ranges[name], position) for name, position in positions.items()}

    def position(self, settings: Mapping[str, float]) -> dict[str, float]:
        """Return the position of settings, 0 to 1 in each range."""
        return {name: bounds.position(bounds.clamp(settings[name])) for name, bounds in self.ranges.items()}

    def extended(self, below: int, above: int) -> "SearchSpace":
        """Return the space with the learning rate's range extended so many times at each side."""
        bounds = self.ranges["lr"]
        wider = replace(bounds, low=bounds.low / EXTENSION**below, high=bounds.high * EXTENSION**above)
        return replace(self, ranges={**self.ranges, "lr": wider})


def is_rate(name: str) -> bool:
    """Return True if a setting is a learning rate: ``lr``, or ``d.lr`` of a named optimizer."""
    return name.rpartition(".")[2] == "lr"


def _inside(name: str, bounds: Range, value: Any) -> Any:
    """A learning rate as it is, any other value no further than the end of its range: a decay of 0 has no logarithm."""
    return value if is_rate(name) and bounds.scale == "log" else bounds.clamp(value)


def search_space_of(contender: Contender, ranges: Mapping[str, Range] | None = None) -> SearchSpace:
    """Return the search space of a contender.

    Args:
        contender: The contender.
        ranges: Ranges that replace the declared ones, from the plan.

    Example:
        >>> from thalweg.comparison.contenders.parsing import parse
        >>> search_space_of(parse("adam")).anchor["lr"], search_space_of(parse("sgd")).starts
        (0.01, {-1: {'lr': 0.001, 'weight_decay': 0.0}, -2: {'lr': 0.59, 'weight_decay': 0.0}})
    """
    searched = replace(contender, ranges={**contender.ranges, **(ranges or {})}).space(MAX_ORDER)
    defaults = start_values(contender, searched)
    off = frozenset(
        name
        for name, bounds in searched.items()
        if bounds.is_ordered and not (bounds.whole or bounds.values) and defaults[name] == 0 < bounds.low
    )
    recommended: Settings = {name: value for name, value in contender.recommended.items() if name in searched}
    for start in (defaults, recommended):  # within a range that the user gave
        for name in start:
            if name in contender.ranges or name.rpartition(".")[2] in contender.ranges:
                start[name] = searched[name].clamp(start[name])
    starts = {START.trial: defaults}
    if recommended:
        starts[RECOMMENDED.trial] = {**defaults, **recommended}
    for number, settings in enumerate(contender.user_settings):
        starts[USER_TRIAL - number] = {**defaults, **settings}
    anchor = {**defaults, **(recommended or _starting_rates(contender))}
    rate = searched.get("lr")
    return SearchSpace(
        contender=contender.name,
        ranges=searched,
        orders={name: contender.order_of(name) for name in searched},
        anchor={name: searched[name].clamp(anchor[name]) if is_rate(name) else anchor[name] for name in searched},
        starts=starts,
        can_extend=rate is not None and rate.scale == "log" and "lr" not in contender.ranges,
        task_settings=frozenset(contender.task_settings),
        off=off,
    )


def starting_point(contender: Contender) -> tuple[Settings, str]:
    """Return the settings at which a contender should be tried first, and the committed record that they come from.

    Args:
        contender: The contender.

    Returns:
        The settings that replace the defaults, and the record. No settings if the defaults do best; no record if
        nothing was measured.

    Example:
        >>> starting_point(CONTENDERS["adamw"])
        ({'lr': 0.01, 'beta1': 0.973}, 'benchmarks/records/recommended.json')
    """
    if contender.recommended or contender.name in DEFAULTS_DO_BEST:
        return dict(contender.recommended), RECOMMENDED_RECORD
    rates = _starting_rates(contender)
    return rates, RATE_OF_ADAM_RECORD if rates else ""


def _starting_rates(contender: Contender) -> Settings:
    """The settings to start from of a contender that has none recommended; of several, what is known of each."""
    if not contender.members:
        return contender.expanded(_transferred(contender))
    return {
        full_name(optimizer, name): value
        for optimizer, member in contender.members.items()
        for name, value in (dict(member.recommended) or _transferred(member)).items()
    }


def _transferred(contender: Contender) -> Settings:
    """The learning rate that another contender's starting point suggests for this one; empty if none does.

    A composite starts as its first rule does, and a wrapper as the rule inside: they share their learning rate.
    """
    rule = _leading(contender.thalweg_rule)
    return {} if rule is None or "lr" in contender.pinned else _suggested_rate(rule)


def _leading(rule: Rule | None) -> Rule | None:
    """The rule whose learning rate a wrapper or composite has."""
    while isinstance(rule, Wrapper | CompositeRule):
        rule = rule.inner if isinstance(rule, Wrapper) else rule.original_rules[0]
    return rule


@cache
def _suggested_rate(rule: Rule) -> Settings:
    """The recommended learning rate of this very rule, else that at which its steps carry as far as the reference's."""
    if "lr" not in rule.settings():
        return {}
    combinations = (parse(name) for name in RECOMMENDED_SETTINGS if name not in CONTENDERS)
    for contender in (*sorted(CONTENDERS.values(), key=lambda each: each.full_batch), *combinations):
        known = _leading(contender.thalweg_rule)
        if "lr" in contender.recommended and known is not None and known.with_(lr=rule.settings()["lr"]) == rule:
            return {"lr": contender.recommended["lr"]}
    reference = CONTENDERS[REFERENCE]
    params = [torch.zeros(HIDDEN_MATRIX)] if rule.traits.scope == "matrix" else None
    try:
        target = transfer(reference.rule_at(reference.recommended), rule, params, match="distance").rule
    except ThalwegError:  # a rule that needs the gradients of the task, or estimates its own steps
        return {}
    return {"lr": float(f"{float(target.settings()['lr']):.2g}")}
