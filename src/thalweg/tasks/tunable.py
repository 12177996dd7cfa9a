"""Tunable numbers: arguments of a model or a training function that a comparison tunes with each optimizer.

A declaration such as ``batch_size=thalweg.choice(32, 64)`` is a number of Python, its default, that also knows its
search range. So the function runs without a comparison too.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, overload

from thalweg.errors import SettingError, nearest
from thalweg.rules import Range


@dataclass(frozen=True)
class Tunable:
    """The declaration of a number of the task that is tuned.

    Attributes:
        default: The value without tuning.
        search: The values that a search tries; None if the number is fixed.
    """

    default: float
    search: Range | None

    def value(self, number: float) -> float:
        """Return a number of a search or a store as the user's code gets it: a whole number if it was declared so."""
        equal = [value for value in (self.search.values if self.search else ()) if value == number]
        if equal:
            return equal[0]
        return int(number) if isinstance(self.default, int) and number == int(number) else number

    def fixed_at(self, number: float) -> "Tunable":
        """Return the same declaration with another default and nothing to search."""
        return replace(self, default=self.value(number), search=None)


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


def tunable_of(value: object) -> Tunable | None:
    """Return the declaration of a number that ``choice``, ``range`` or ``log_range`` made; None for other values."""
    return value.tunable if isinstance(value, _TunableInt | _TunableFloat) else None


def tunables_of(function: Callable[..., Any]) -> dict[str, Tunable]:
    """Return the declarations among the default arguments of a function or class, by name."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}
    found = {argument.name: tunable_of(argument.default) for argument in arguments}
    return {name: tunable for name, tunable in found.items() if tunable is not None}


def fix(tunables: Mapping[str, Tunable], values: Mapping[str, float], who: str) -> dict[str, Tunable]:
    """Return declarations of which some are fixed.

    Args:
        tunables: The declarations.
        values: The values of those that are not tuned.
        who: The name of the task, for messages.

    Raises:
        SettingError: If there is no declaration of a name, or a value is no number.
    """
    for name, value in values.items():
        if name not in tunables:
            known = f"its tuned numbers are {', '.join(tunables)}" if tunables else "it declares no tuned number"
            raise SettingError(
                f"{who}: {name!r} must be a number that the task declares, but {known}. "
                f"{nearest(name, tunables) if tunables else 'Write batch_size=thalweg.choice(32, 64), say.'}"
            )
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingError(f"{who}: {name} must be a finite number, got {value!r}.")
    return {name: tunable.fixed_at(values[name]) if name in values else tunable for name, tunable in tunables.items()}


def _number(tunable: Tunable) -> Any:
    whole = isinstance(tunable.default, int)
    return _TunableInt(tunable) if whole else _TunableFloat(tunable)


@overload
def choice(*values: int, default: int | None = None) -> int: ...
@overload
def choice(*values: float, default: float | None = None) -> float: ...
def choice(*values: float, default: float | None = None) -> float:
    """Declare a number of a task that is tuned, as one of several values.

    Write it as the default of an argument of a training function or of the function that makes a model, or as
    ``batch_size`` or ``passes`` of a :class:`thalweg.Task`. Every contender tunes it together with its own settings.

    Args:
        *values: The values, two or more different numbers.
        default: The value without tuning. Defaults to the first one.

    Returns:
        The default, as a number that also knows the other values.

    Raises:
        SettingError: If there are less than two values, or one is no number.

    Example:
        >>> import thalweg
        >>> def train(make_optimizer, report, batch_size=thalweg.choice(32, 64, 128)): ...
        >>> train.__defaults__[0] + 1
        33
    """
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingError(
                f"thalweg.choice: the values must be finite numbers, got {value!r}. Choose among texts or objects by "
                "their number in a list."
            )
    default = values[0] if default is None and values else default
    if len(set(values)) < max(2, len(values)) or default not in values:
        raise SettingError(
            f"thalweg.choice: there must be two or more different values, the default among them, got {values} "
            f"with the default {default}. Write thalweg.choice(32, 64), say."
        )
    ordered = tuple(sorted(values))
    number = next(value for value in ordered if value == default)
    result: float = _number(Tunable(number, Range(ordered[0], ordered[-1], values=ordered)))
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
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)) or not low < high:
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
        raise SettingError(f"thalweg.{name}: the default must lie in the range, {low} to {high}, got {default!r}.")
    return _number(Tunable(number if bounds.whole else float(number), bounds))
