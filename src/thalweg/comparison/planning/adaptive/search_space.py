"""Search space of one contender, in coordinates in which contenders resemble one another.

The learning rate is measured in decades from the contender's own starting point. All other settings are measured in
shares of their range. So what is learnt of the learning rate of one contender says something about the others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.planning.search import rounded
from thalweg.comparison.protocol.trial import RECOMMENDED, START
from thalweg.errors import ThalwegError
from thalweg.optim.transfer import transfer
from thalweg.rules import Range, Rule

REFERENCE = "adam"  # from whose starting point others are derived
EXTENSION = 10.0  # a range whose best learning rate lies at its end grows by this factor
MAX_EXTENSIONS = 2  # to each side


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search can try for one contender.

    Attributes:
        contender: The name of the contender.
        ranges: The range of each setting that is searched.
        orders: The order of each of these settings: 1 for the learning rate, 2 for the first momentum, 3 for others.
        anchor: The starting point: the value of each searched setting that is expected to do best.
        starts: The settings that enter the search first, by trial number (`START.trial`, `RECOMMENDED.trial`).
        can_extend: True if the range of the learning rate may be extended.
    """

    contender: str
    ranges: Mapping[str, Range]
    orders: Mapping[str, int]
    anchor: Settings
    starts: Mapping[int, Settings]
    can_extend: bool = False

    def coordinates(self, settings: Mapping[str, float]) -> dict[str, float]:
        """Return the place of settings relative to the starting point. Settings that are not given stay at it."""
        return {
            name: _place(name, bounds, settings[name]) - _place(name, bounds, self.anchor[name])
            for name, bounds in self.ranges.items()
            if name in settings
        }

    def complete(self, settings: Mapping[str, float]) -> Settings:
        """Return these settings, and the contender's defaults for all others that are searched."""
        return {**self.starts[START.trial], **settings}

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


def _place(name: str, bounds: Range, value: float) -> float:
    """The decades of a learning rate on a logarithmic scale, the position in the range of any other setting."""
    if name == "lr" and bounds.scale == "log":
        return math.log10(value)
    return bounds.position(bounds.clamp(value))


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
    hypers, own = contender.rule.hypers(), contender.rule.settings()
    defaults = {name: float(own[name]) for name in searched}
    for name in contender.ranges.keys() & searched.keys():  # within the range that the user gave
        defaults[name] = searched[name].clamp(defaults[name])
    starts = {START.trial: defaults}
    recommended = {name: value for name, value in contender.recommended.items() if name in searched}
    if recommended:
        starts[RECOMMENDED.trial] = {**defaults, **recommended}
    anchor = {**defaults, **(recommended or _transferred(contender))}
    rate = searched.get("lr")
    return SearchSpace(
        contender=contender.name,
        ranges=searched,
        orders={name: hypers[name].order if name in hypers else MAX_ORDER for name in searched},
        anchor={name: searched[name].clamp(anchor[name]) if name == "lr" else anchor[name] for name in searched},
        starts=starts,
        can_extend=rate is not None and rate.scale == "log" and "lr" not in contender.ranges,
    )


def _transferred(contender: Contender) -> Settings:
    """The learning rate at which this contender's steps are as long as those of the reference at its starting point."""
    rule = contender.thalweg_rule
    return {} if rule is None or "lr" in contender.pinned else _transferred_rate(rule)


@cache
def _transferred_rate(rule: Rule) -> Settings:
    reference = CONTENDERS[REFERENCE]
    try:
        rate = transfer(reference.rule_at(reference.recommended), rule, match="distance").rule.settings().get("lr")
    except ThalwegError:  # a rule that needs the gradients of the task, or estimates its own steps
        return {}
    return {} if rate is None else {"lr": float(f"{float(rate):.2g}")}
