"""A hyperparameter, declared once: its default, bound, unit, search range and meaning.

The check, its error text, the search space, `explain` and the report all read the declaration made here.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal

from torch import Tensor

from thalweg.errors import SettingError

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


Kind = Literal["number", "switch", "count", "choice"]


@dataclass(frozen=True)
class Hyper:
    """What is declared of one hyperparameter.

    A `number` enters a formula; a `switch` (true or false), a `count` (whole) and a `choice` (one of `options`) choose
    between formulas. `order` says how soon a search should open it: 1 the learning rate, 2 the first momentum, 3 the
    rest. One that `moves_optimum` (weight decay) changes which parameters are best, not only how soon they are reached.
    `place` says how it enters, where rules differ in that: a weight decay is `coupled` or `decoupled`, an ε is
    `outside the root` or `inside the root`. `averages` is the unit of what a decay rate averages. `keyword` is the
    argument of `torch.optim` it belongs to; two that share one make a tuple (`betas`).
    """

    default: float | bool | str
    doc: str
    symbol: str = ""
    bound: Bound | None = None
    unit: str = ""
    search: Range | None = None
    order: int = 3
    moves_optimum: bool = False
    keyword: str | None = None
    kind: Kind = "number"
    options: tuple[str, ...] = ()
    place: str = ""
    averages: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether it chooses between formulas, where a number only enters one."""
        return self.kind != "number"

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.kind == "switch":
            return "True or False"
        if self.kind == "choice":
            return f"one of {', '.join(self.options)}"
        return f"a {'whole ' if self.kind == 'count' else ''}number {self.bound}"

    def check(self, who: str, value: Any) -> None:
        """Raise SettingError unless this is a value it may take."""
        if isinstance(value, Tensor):  # its value is not read: that could wait for a device
            if value.numel() != 1:
                raise SettingError(f"{who} must be one number, got a tensor of shape {tuple(value.shape)}.")
            return
        if self.kind == "switch":
            right = isinstance(value, bool)
        elif self.kind == "choice":
            right = value in self.options
        else:
            right = isinstance(value, Integral if self.kind == "count" else Real) and not isinstance(value, bool)
        if not right:
            raise SettingError(f"{who} must be {self.wanted}, got {value!r}.")
        if self.bound is not None and float(value) not in self.bound:
            raise SettingError(f"{who} must be {self.bound}, got {value!r}. The default is {self.default!r}.")


def _field(declared: Hyper) -> Any:
    return field(default=declared.default, metadata={"hyper": declared})


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
    place: str = "",
    averages: str = "",
) -> Any:
    """Declare a number: a field of a rule's dataclass. See `Hyper` for the arguments."""
    return _field(
        Hyper(
            default,
            doc,
            symbol,
            Bound(bound),
            unit,
            search,
            order,
            moves_optimum,
            keyword,
            "number",
            (),
            place,
            averages,
        )
    )


def switch(default: bool, *, doc: str) -> Any:
    """Declare a switch between two forms of a formula: a field of a rule's dataclass."""
    return _field(Hyper(default, doc, kind="switch"))


def count(default: int, bound: str, *, symbol: str, doc: str) -> Any:
    """Declare a whole number that decides what is computed, not only with which numbers: a field, as above."""
    return _field(Hyper(default, doc, symbol, Bound(bound), kind="count"))


def choice(default: str, *options: str, doc: str) -> Any:
    """Declare a choice between several forms of a formula: a field, as above."""
    return _field(Hyper(default, doc, kind="choice", options=(default, *options)))


# What most rules declare, in one place.


def learning_rate(
    default: float, *, low: float = 1e-5, high: float = 1.0, unit: str = "θ", doc: str = "learning rate"
) -> Any:
    """Declare η. Its unit is that of a parameter where the step is scaled to a size that no gradient changes."""
    return hyper(default, ">= 0", symbol="η", unit=unit, search=Range(low, high, "log"), order=1, doc=doc)


def mean_decay(default: float, *, symbol: str = "β₁", keyword: str | None = "betas") -> Any:
    """Declare the decay of a running mean of gradients."""
    within = Range(0.5, 0.99, "log-to-one")
    doc = "decay of the mean gradient"
    return hyper(default, "[0, 1)", symbol=symbol, search=within, order=2, doc=doc, keyword=keyword, averages="g")


def square_decay(default: float, *, symbol: str = "β₂", keyword: str | None = "betas") -> Any:
    """Declare the decay of a running mean of squared gradients."""
    within = Range(0.9, 0.9999, "log-to-one")
    doc = "decay of the mean square"
    return hyper(default, "[0, 1)", symbol=symbol, search=within, doc=doc, keyword=keyword, averages="g²")


def epsilon(default: float, *, place: str = "outside the root", unit: str = "g") -> Any:
    """Declare ε. Its `place` says in the docs what it is added to."""
    within = Range(1e-10, 1e-3, "log")
    doc = "keeps the division finite"
    return hyper(default, ">= 0", symbol="ε", unit=unit, search=within, doc=doc, place=place)
