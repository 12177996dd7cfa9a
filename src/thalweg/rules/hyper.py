"""A hyperparameter, declared once: its default, bound, unit, search range and meaning.

The check, its error text, the search space, `explain` and the report all read the declaration made here.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from torch import Tensor

Scalar = float | Tensor

_INEQUALITY = re.compile(r"(>=|>)\s*(\S+)")
_INTERVAL = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])")


@dataclass(frozen=True)
class Bound:
    """The values a hyperparameter may take, as a reader would write them: `> 0`, `>= 0`, `[0, 1)`."""

    text: str

    @cache  # noqa: B019  (as many bounds as are declared, for good)
    def ends(self) -> tuple[float, bool, float, bool]:
        """(low, low is allowed, high, high is allowed)."""
        if match := _INEQUALITY.fullmatch(self.text):
            return float(match[2]), match[1] == ">=", math.inf, False
        match = _INTERVAL.fullmatch(self.text)
        assert match, f"a bound reads like '> 0' or '[0, 1)', not {self.text!r}"
        return float(match[2]), match[1] == "[", float(match[3]), match[4] == "]"

    def __contains__(self, value: float) -> bool:
        low, low_allowed, high, high_allowed = self.ends()
        return (low < value or (low_allowed and value == low)) and (value < high or (high_allowed and value == high))

    def __str__(self) -> str:
        return f"in {self.text}" if self.text[0] in "[(" else self.text


@dataclass(frozen=True)
class Range:
    """Where to search: from `low` to `high`, uniform in the value, in its logarithm, or in that of its distance to 1.

    Distance to 1 is the scale of a decay rate: 0.9, 0.99 and 0.999 average over 10, 100 and 1,000 steps.
    """

    low: float
    high: float
    scale: Literal["linear", "log", "log-to-one"] = "linear"

    def _forward(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return -math.log1p(-value) if self.scale == "log-to-one" else value

    def _backward(self, value: float) -> float:
        if self.scale == "log":
            return math.exp(value)
        return -math.expm1(-value) if self.scale == "log-to-one" else value

    def at(self, position: float) -> float:
        """The value at a position between 0 (low) and 1 (high)."""
        low, high = self._forward(self.low), self._forward(self.high)
        return self.nearest(self._backward(low + position * (high - low)))

    def nearest(self, value: float) -> float:
        """The value, or the end that it lies beyond."""
        return min(max(value, self.low), self.high)

    def position(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`, beyond them outside the range."""
        low, high = self._forward(self.low), self._forward(self.high)
        return (self._forward(value) - low) / (high - low)


@dataclass(frozen=True)
class Hyper:
    """What is declared of one hyperparameter.

    `order` says how soon a search should open it: 1 the learning rate, 2 the first momentum, 3 the rest. One that
    `moves_optimum` (weight decay) changes which parameters are best, not only how soon they are reached.
    `keyword` is the argument of `torch.optim` it belongs to; two that share one make a tuple (`betas`).
    """

    default: float | bool
    doc: str
    symbol: str
    bound: Bound | None
    unit: str
    search: Range | None
    order: int
    moves_optimum: bool
    keyword: str | None

    @property
    def is_switch(self) -> bool:
        """A switch chooses between formulas; a number only enters one."""
        return self.bound is None


def hyper(
    default: float,
    bound: str,
    *,
    symbol: str,
    doc: str,
    unit: str = "1",
    search: Range | None = None,
    order: int = 3,
    moves_optimum: bool = False,
    keyword: str | None = None,
) -> Any:
    """Declare a number: a field of a rule's dataclass. See `Hyper` for the arguments."""
    declared = Hyper(default, doc, symbol, Bound(bound), unit, search, order, moves_optimum, keyword)
    return field(default=default, metadata={"hyper": declared})


def switch(default: bool, *, doc: str) -> Any:
    """Declare a switch between two forms of a formula: a field of a rule's dataclass."""
    return field(default=default, metadata={"hyper": Hyper(default, doc, "", None, "", None, 3, False, None)})
