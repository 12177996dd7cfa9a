"""Hyperparameters: the declaration of a setting, with default, bound, unit, search range and meaning.

The check, its error message, the search space, ``explain`` and the report all read this declaration.
"""

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal

from torch import Tensor

from thalweg.errors import SettingError, shown
from thalweg.rules.core.search_range import Range as Range  # declared with hyperparameters, so exported here

Scalar = float | Tensor

_MAX_INT = 1 << 20  # of a number that stays an int
_INEQUALITY = re.compile(r"(>=|>)\s*(\S+)")
_INTERVAL = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])")


@dataclass(frozen=True)
class Bound:
    """The values that a hyperparameter may have, in the notation of mathematics.

    Attributes:
        text: An inequality such as ``"> 0"`` and ``">= 0"``, or an interval such as ``"[0, 1)"``.

    Example:
        >>> 1.0 in Bound("[0, 1)")
        False
    """

    text: str

    @cached_property
    def _limits(self) -> tuple[float, bool, float, bool]:
        """The lower limit, whether it is allowed, the upper limit, and whether that is allowed."""
        if match := _INEQUALITY.fullmatch(self.text):
            return float(match[2]), match[1] == ">=", math.inf, False
        if match := _INTERVAL.fullmatch(self.text):
            return float(match[2]), match[1] == "[", float(match[3]), match[4] == "]"
        raise SettingError(f"Bound: text must read like '> 0' or '[0, 1)', got {self.text!r}. Rewrite it so.")

    def __contains__(self, value: float) -> bool:
        low, low_allowed, high, high_allowed = self._limits
        return (low < value or (low_allowed and value == low)) and (value < high or (high_allowed and value == high))

    def __str__(self) -> str:
        return f"in {self.text}" if self.text[0] in "[(" else self.text


Kind = Literal["number", "switch", "count", "choice"]


@dataclass(frozen=True)
class Hyper:
    """The declaration of one hyperparameter.

    Attributes:
        default: The default value.
        doc: The meaning, in a few words.
        symbol: The symbol in the formula, such as ``"η"``.
        bound: The values that are allowed; None for a switch or a choice.
        unit: The unit, in those of the parameter (θ) and its gradient (g), such as ``"g/θ"``; ``"1"`` if it has none.
        search: The values that a search tries; None if it is not searched.
        order: The order in which a search opens hyperparameters: 1 for the learning rate, 2 for the first momentum,
            3 for all others.
        moves_optimum: True if it changes which parameters are best, as a weight decay does; False if it changes only
            how fast they are reached.
        keyword: The argument of ``torch.optim`` that it belongs to, if the names differ. Hyperparameters with the same
            keyword form a tuple (``betas``).
        kind: A ``"number"`` enters a formula. A ``"switch"`` (true or false), a ``"count"`` (a whole number) and a
            ``"choice"`` (one of ``options``) select a formula.
        options: The values of a choice.
        place: The place where it enters the formula, if rules differ in it: a weight decay is ``"coupled"`` or
            ``"decoupled"``, an ε is ``"outside the root"`` or ``"inside the root"``.
        averages: The unit of the quantity that a decay rate averages.
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
    def is_static(self) -> bool:
        """True if the value selects the code of a step; False if it only enters a formula."""
        return self.kind != "number"

    @property
    def is_whole(self) -> bool:
        """True if only whole numbers have a meaning: counts and numbers of steps."""
        return self.kind == "count" or self.unit == "steps"

    @property
    def requirement(self) -> str:
        """The condition on a value, in words."""
        if self.kind == "switch":
            return "True or False"
        if self.kind == "choice":
            return f"one of {', '.join(self.options)}"
        return f"a {'whole ' if self.kind == 'count' else ''}number {self.bound}"

    def _has_right_type(self, value: Any) -> bool:
        """Return True if a value of one of Python's own types has the type of this hyperparameter."""
        if self.kind == "switch":
            return type(value) is bool
        if self.kind == "choice":
            return type(value) is str and value in self.options
        return type(value) is int or (type(value) is float and self.kind == "number")

    def parse(self, subject: str, value: Any) -> Any:
        """Check a value and return it as a float, int, bool or str of Python.

        Numbers of other libraries and classes (NumPy's, fractions) are converted. A tensor of one element is returned
        as it is: to read its value could wait for a device. So is a stand-in that writes a computation down.

        Args:
            subject: The rule and the hyperparameter, for the message, such as ``"AdamW: lr"``.
            value: The value.

        Returns:
            The value. A huge number is a float, since the power of a huge int would fill the memory.

        Raises:
            SettingError: If the value has the wrong type or is out of bounds.
        """
        if isinstance(value, Tensor) and self.kind == "number":
            if value.numel() != 1:
                raise SettingError(f"{subject} must be one number, got a tensor of shape {tuple(value.shape)}.")
            return value
        if type(value) is not float and getattr(value, "is_stand_in", False):
            return value
        converted = as_plain(value)
        if self.kind == "switch" and type(converted) is int and converted in (0, 1):
            converted = bool(converted)
        if not self._has_right_type(converted):
            raise SettingError(f"{subject} must be {self.requirement}, got {shown(value)}.")
        if self.kind in ("number", "count"):
            number = _as_float(converted)
            if self.bound is not None and number not in self.bound:
                raise SettingError(
                    f"{subject} must be {self.bound}, got {shown(value)}. The default is {self.default!r}."
                )
            converted = number if self.kind == "number" and abs(number) > _MAX_INT else converted
        return converted


def as_plain(value: Any) -> Any:
    """Return a number, bool or text of any library as that of Python; any other value as it is.

    Example:
        >>> from fractions import Fraction
        >>> as_plain(Fraction(1, 4))
        0.25
    """
    if type(value) in (float, int, bool, str):
        return value
    try:
        if hasattr(type(value), "__array__") and not isinstance(value, Tensor):  # NumPy's numbers and arrays
            value = value.item() if value.size == 1 else value
        if isinstance(value, bool | str):
            return value if isinstance(value, bool) else str.__str__(value)
        if isinstance(value, Integral):
            return int(value)
        return float(value) if isinstance(value, Real | Decimal) else value
    except Exception:  # the code of a user's class, or a number that no float can hold
        return None


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an int
        return math.inf if number > 0 else -math.inf


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
    """Declare a number that enters a formula.

    Args:
        default: The default value.
        bound: The values that are allowed, such as ``"> 0"`` or ``"[0, 1)"``.
        symbol: The symbol in the formula.
        doc: The meaning, in a few words.
        unit: The unit, in those of the parameter (θ) and its gradient (g).
        search: The values that a search tries; None if it is not searched.
        order: The order in which a search opens it; see :class:`Hyper`.
        moves_optimum: True if it changes which parameters are best.
        keyword: The argument of ``torch.optim`` that it belongs to, if the names differ.
        place: The place where it enters the formula, if rules differ in it.
        averages: The unit of the quantity that a decay rate averages.

    Returns:
        A field for the dataclass of a rule.

    Example:
        >>> from dataclasses import dataclass
        >>> from thalweg.rules import Rule, hyper
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Descent(Rule):
        ...     lr: float = hyper(0.1, "> 0", symbol="η", doc="learning rate", unit="θ/g")
        >>> Descent(lr=-1.0)
        Traceback (most recent call last):
        thalweg.errors.SettingError: Descent: lr must be > 0, got -1.0. The default is 0.1.
    """
    return _field(
        Hyper(
            default=default,
            doc=doc,
            symbol=symbol,
            bound=Bound(bound),
            unit=unit,
            search=search,
            order=order,
            moves_optimum=moves_optimum,
            keyword=keyword,
            place=place,
            averages=averages,
        )
    )


def switch(default: bool, *, doc: str) -> Any:
    """Declare a switch between two forms of a formula.

    Args:
        default: The default value.
        doc: The meaning, in a few words.

    Returns:
        A field for the dataclass of a rule.
    """
    return _field(Hyper(default, doc, kind="switch"))


def count(default: int, bound: str, *, symbol: str, doc: str) -> Any:
    """Declare a whole number that decides which operations a step does.

    Args:
        default: The default value.
        bound: The values that are allowed, such as ``">= 1"``.
        symbol: The symbol in the formula.
        doc: The meaning, in a few words.

    Returns:
        A field for the dataclass of a rule.
    """
    return _field(Hyper(default, doc, symbol, Bound(bound), kind="count"))


def choice(default: str, *options: str, doc: str) -> Any:
    """Declare a choice between several forms of a formula.

    Args:
        default: The default option.
        *options: All other options.
        doc: The meaning, in a few words.

    Returns:
        A field for the dataclass of a rule.
    """
    return _field(Hyper(default, doc, kind="choice", options=(default, *options)))


# Declarations that most rules share.


def learning_rate(
    default: float, *, low: float = 1e-5, high: float = 1.0, unit: str = "θ", doc: str = "learning rate"
) -> Any:
    """Declare η. Its unit is that of the parameter if no gradient changes the size of a step."""
    return hyper(default, ">= 0", symbol="η", unit=unit, search=Range(low, high, "log"), order=1, doc=doc)


def mean_decay(default: float, *, symbol: str = "β₁", keyword: str | None = "betas") -> Any:
    """Declare the decay of a running mean of gradients."""
    search = Range(0.5, 0.99, "log-to-one")
    doc = "decay of the mean gradient"
    return hyper(default, "[0, 1)", symbol=symbol, search=search, order=2, doc=doc, keyword=keyword, averages="g")


def square_decay(default: float, *, symbol: str = "β₂", keyword: str | None = "betas") -> Any:
    """Declare the decay of a running mean of squared gradients."""
    search = Range(0.9, 0.9999, "log-to-one")
    doc = "decay of the mean square"
    return hyper(default, "[0, 1)", symbol=symbol, search=search, doc=doc, keyword=keyword, averages="g²")


def epsilon(default: float, *, place: str = "outside the root", unit: str = "g") -> Any:
    """Declare ε; `place` names the quantity that it is added to."""
    search = Range(1e-10, 1e-3, "log")
    doc = "keeps the division finite"
    return hyper(default, ">= 0", symbol="ε", unit=unit, search=search, doc=doc, place=place)
