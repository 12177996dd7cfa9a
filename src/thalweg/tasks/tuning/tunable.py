"""Tunable arguments of a model or a training function, which a comparison tunes with each optimizer.

A declaration such as ``batch_size=thalweg.choice(32, 64)`` is a number or a text of Python, its default, that also
knows its search range. So the function runs without a comparison too.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar, overload

from thalweg.errors import SettingError, nearest
from thalweg.rules import Range

TunableValue = float | str | bool | None
_Value = TypeVar("_Value", bound=TunableValue)


@dataclass(frozen=True)
class Tunable:
    """The declaration of a number, or of another value, of the task that is tuned.

    Attributes:
        default: The value without tuning.
        search: The values that a search tries; None if the value is fixed.
    """

    default: Any  # of any of these kinds
    search: Range | None

    @property
    def is_number(self) -> bool:
        """True if the values are numbers; False if they are texts, booleans or None."""
        return type(self.default) in (int, float) and (self.search is None or self.search.is_ordered)

    def value(self, value: TunableValue) -> TunableValue:
        """Return a value of a search or a store as the user's code gets it: a whole number if it was declared so."""
        equal = [known for known in (self.search.values if self.search else ()) if known == value]
        if equal:
            return equal[0]
        whole = type(self.default) is int and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value  # type: ignore[arg-type]  # a float

    def fixed_at(self, value: TunableValue) -> "Tunable":
        """Return the same declaration with another default and nothing to search."""
        return replace(self, default=self.value(value), search=None)

    def parsed(self, text: str) -> TunableValue:
        """Return the value that a text stands for: ``32``, ``gelu``, ``true`` or ``none``; a text of no value as it is.

        Example:
            >>> Tunable("relu", Range(0, 1, values=("relu", None))).parsed("None")
        """
        known = {str(value).casefold(): value for value in (self.search.values if self.search else ())}
        if text.casefold() in known:
            return known[text.casefold()]
        try:
            return float(text)
        except ValueError:
            return text

    def check(self, value: Any, who: str) -> None:
        """Raise SettingError for a value that cannot be one of this declaration.

        A choice allows its values alone. A range says what is worth a search, so a value that is fixed may lie beyond
        it: 1 pass for a quick look, or no dropout. It must be a whole number if the range has only those, and above 0
        if its logarithm is searched.

        Args:
            value: The value.
            who: The beginning of the message: the task and the name.
        """
        search = self.search
        if search is not None and search.values:
            if not any(_is_same(value, known) for known in search.values):
                values = ", ".join(map(repr, search.values))
                raise SettingError(f"{who} must be one of {values}, got {self.value(value)!r:.80}. Take one of them.")
        elif self.is_number:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise SettingError(f"{who} must be a finite number, got {value!r:.80}.")
            if search is not None and search.whole and value != int(value):
                raise SettingError(f"{who} must be a whole number, as its range is, got {value!r:.80}.")
            if search is not None and search.scale == "log" and value <= 0:
                raise SettingError(f"{who} must be > 0, since its logarithm is searched, got {value!r:.80}.")

    def check_start(self, value: Any, who: str) -> None:
        """Raise SettingError for a value that no search can start from: one beyond its range.

        The model of a search knows no place beyond the ends of a range, and would learn of the end what it sees beyond.

        Args:
            value: The value.
            who: The beginning of the message: the task and the name.
        """
        self.check(value, who)
        search = self.search
        if search is not None and not search.values and not search.low <= value <= search.high:
            raise SettingError(
                f"{who} must lie in its range, {search.low:g} to {search.high:g}, to start a search, got {value:g}. "
                "Widen the range in the task, or fix the value by --set (fixed= in Python)."
            )


def _is_same(value: object, known: object) -> bool:
    """Return True for equal values; True is not 1."""
    return value == known and isinstance(value, bool) == isinstance(known, bool)


class _TunableInt(int):
    tunable: Tunable

    def __new__(cls, tunable: Tunable) -> Self:
        number = super().__new__(cls, int(tunable.default))
        number.tunable = tunable
        return number

    def __getnewargs__(self) -> tuple[Tunable]:  # type: ignore[override]  # int's are an int
        return (self.tunable,)


class _TunableFloat(float):
    tunable: Tunable

    def __new__(cls, tunable: Tunable) -> Self:
        number = super().__new__(cls, tunable.default)
        number.tunable = tunable
        return number

    def __getnewargs__(self) -> tuple[Tunable]:  # type: ignore[override]  # float's are a float
        return (self.tunable,)


class _TunableText(str):
    tunable: Tunable

    def __new__(cls, tunable: Tunable) -> Self:
        text = super().__new__(cls, tunable.default)
        text.tunable = tunable
        return text

    def __getnewargs__(self) -> tuple[Tunable]:  # type: ignore[override]  # str's are a str
        return (self.tunable,)


class _TunableBool(_TunableInt):
    """True or False. Python's own cannot carry a declaration; in conditions and sums this one acts as they do."""

    def __repr__(self) -> str:
        return repr(bool(self))

    __str__ = __repr__


_KINDS: dict[type, Any] = {int: _TunableInt, float: _TunableFloat, str: _TunableText, bool: _TunableBool}


def tunable_of(value: object) -> Tunable | None:
    """Return the declaration that ``choice``, ``range`` or ``log_range`` made of a value; None for other values."""
    return value.tunable if isinstance(value, _TunableInt | _TunableFloat | _TunableText) else None


def tunables_of(function: Callable[..., Any]) -> dict[str, Tunable]:
    """Return the declarations among the default arguments of a function or class, by name."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}
    declared = {argument: tunable_of(argument.default) for argument in arguments}
    for argument, tunable in declared.items():
        if tunable is not None and argument.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise SettingError(
                f"{getattr(function, '__name__', 'thalweg')}: a tuned argument must be passed by name, got "
                f"{argument.name!r} before the /. Put it after."
            )
    return {argument.name: tunable for argument, tunable in declared.items() if tunable is not None}


def fix(tunables: Mapping[str, Tunable], values: Mapping[str, TunableValue], who: str) -> dict[str, Tunable]:
    """Return declarations of which some are fixed.

    Args:
        tunables: The declarations.
        values: The values of those that are not tuned; a text may stand for a number, as on the command line.
        who: The name of the task, for messages.

    Raises:
        SettingError: If there is no declaration of a name, or it does not allow a value.
    """
    for name in values:
        if name not in tunables:
            names = f"its tuned arguments are {', '.join(tunables)}" if tunables else "it tunes none"
            raise SettingError(
                f"{who}: {name!r} must be an argument that the task tunes, but {names}. "
                f"{nearest(name, tunables) if tunables else 'Write batch_size=thalweg.choice(32, 64), say.'}"
            )
    fixed = dict(tunables)
    for name, value in values.items():
        known = tunables[name].parsed(value) if isinstance(value, str) else value
        tunables[name].check(known, f"{who}: {name}")
        fixed[name] = tunables[name].fixed_at(known)
    return fixed


def _declared(tunable: Tunable) -> Any:
    return _KINDS[type(tunable.default)](tunable)


def choice(*values: _Value, default: _Value | None = None) -> _Value:
    """Declare an argument of a task that is tuned, as one of several numbers, texts, booleans or None.

    Write it as the default of an argument of a training function or of the function that makes a model, or as
    ``batch_size`` or ``passes`` of a :class:`thalweg.Task`. Every contender tunes it together with its own settings.
    Numbers have an order; all other values, and numbers beside them, are tried without one.

    Args:
        *values: The values, two or more different ones.
        default: The value without tuning. Defaults to the first one that is not None.

    Returns:
        The default, as a number or a text that also knows the other values. True and False come as the numbers 1 and 0
        that print as they do: write ``if bias:``, not ``if bias is True:``. In a comparison they are Python's own.

    Raises:
        SettingError: If there are less than two values, or one is of another kind.

    Example:
        >>> import thalweg
        >>> def make_model(width=thalweg.choice(32, 64), activation=thalweg.choice("relu", "gelu")): ...
        >>> make_model.__defaults__[0] + 1, make_model.__defaults__[1].upper()
        (33, 'RELU')
    """
    if len(values) == 1 and isinstance(values[0], list | tuple | set):
        raise SettingError(
            f"thalweg.choice: the values must be arguments of their own, got {values[0]!r:.80}. Write "
            "thalweg.choice(32, 64), or thalweg.choice(*values)."
        )
    for value in values:
        known = isinstance(value, bool | int | float | str | None)
        if not known or (isinstance(value, float) and not math.isfinite(value)):
            raise SettingError(
                f"thalweg.choice: the values must be finite numbers, texts, True, False or None, got {value!r:.80}. "
                "Give each object a name, and look it up in your code: {'relu': nn.ReLU, 'gelu': nn.GELU}[activation]."
            )
    default = next((value for value in values if value is not None), None) if default is None else default
    if len(set(values)) < max(2, len(values)) or default not in values:
        raise SettingError(
            f"thalweg.choice: there must be two or more different values, the default among them, got {values} "
            f"with the default {default!r}. Write thalweg.choice(32, 64), say."
        )
    bounds = Range(0, len(values) - 1, values=values)
    if bounds.is_ordered:
        ordered: list[Any] = sorted(values)
        bounds = Range(ordered[0], ordered[-1], values=tuple(ordered))
    result: _Value = _declared(Tunable(next(value for value in bounds.values if value == default), bounds))
    return result


@overload
def range(low: int, high: int, *, default: int | None = None) -> int: ...  # noqa: A001
@overload
def range(low: float, high: float, *, default: float | None = None) -> float: ...  # noqa: A001
def range(low: float, high: float, *, default: float | None = None) -> float:  # noqa: A001  (as thalweg.range)
    """Declare a number of a task that is tuned, in a range that is searched uniformly.

    If both ends are whole numbers (``1, 4``), only whole numbers are tried; write ``1.0, 4.0`` for all numbers. See
    :func:`thalweg.choice` for where to write it.

    Args:
        low: The smallest value.
        high: The largest value.
        default: The value without tuning. Defaults to the middle of the range.

    Returns:
        The default, as a number that also knows its range.

    Raises:
        SettingError: If the range is empty.

    Example:
        >>> import thalweg
        >>> thalweg.range(0.0, 0.5)
        0.25
    """
    return _declare("range", Range(low, high, "linear"), default)


@overload
def log_range(low: int, high: int, *, default: int | None = None) -> int: ...
@overload
def log_range(low: float, high: float, *, default: float | None = None) -> float: ...
def log_range(low: float, high: float, *, default: float | None = None) -> float:
    """Declare a number of a task that is tuned, in a range whose logarithm is searched uniformly.

    If both ends are whole numbers (``16, 256``), only whole numbers are tried; write ``16.0, 256.0`` for all numbers.
    See :func:`thalweg.choice` for where to write it.

    Args:
        low: The smallest value, > 0.
        high: The largest value.
        default: The value without tuning. Defaults to the geometric middle of the range.

    Returns:
        The default, as a number that also knows its range.

    Raises:
        SettingError: If the range is empty or ``low`` is not above 0.

    Example:
        >>> import thalweg
        >>> thalweg.log_range(16, 256)
        64
    """
    return _declare("log_range", Range(low, high, "log"), default)


def _declare(name: str, bounds: Range, default: float | None) -> Any:
    low, high = bounds.low, bounds.high
    ends = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(ends) < 2 or not all(map(math.isfinite, ends)) or not low < high:
        raise SettingError(f"thalweg.{name}: low must be below high, both finite numbers, got {low!r} and {high!r}.")
    if bounds.scale == "log" and low <= 0:
        raise SettingError(
            f"thalweg.{name}: low must be > 0, since the logarithm is searched, got {low!r}. Use thalweg.range."
        )
    if isinstance(low, int) and isinstance(high, int):
        if high - low < 2:  # of two whole numbers a choice is meant, or all numbers between them
            raise SettingError(
                f"thalweg.{name}: a range of whole numbers must hold 3 or more, got {low} to {high}. "
                f"Write thalweg.choice({low}, {high}), or {float(low)} and {float(high)} for all numbers between."
            )
        bounds = replace(bounds, whole=True)
    middle = replace(bounds, whole=False).value_at(0.5)
    number = (round(middle) if bounds.whole else float(f"{middle:.5g}")) if default is None else default
    if not isinstance(number, int | float) or bounds.clamp(number) != number:
        kind = "be a whole number" if bounds.whole else "lie"
        raise SettingError(f"thalweg.{name}: the default must {kind} in the range, {low} to {high}, got {default!r}.")
    return _declared(Tunable(number if bounds.whole else float(number), bounds))
