"""Range: the values of a hyperparameter that a search tries, on the scale on which it is searched."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Range:
    """The values of a hyperparameter that a search tries.

    Attributes:
        low: The smallest value.
        high: The largest value.
        scale: The quantity that is searched uniformly: the value (``"linear"``), its logarithm (``"log"``), or the
            logarithm of its distance to 1 (``"log-to-one"``). The last is the scale of decay rates: 0.9, 0.99 and
            0.999 average over 10, 100 and 1,000 steps.
        whole: True if only whole numbers are tried.
        values: The only values that are tried; empty if all values of the range are. Each gets an equal share of the
            positions. Numbers stand in ascending order. Texts, booleans and None have no order, and ``low`` and
            ``high`` are then the numbers of the first and of the last.

    Example:
        >>> round(Range(1e-4, 1.0, "log").value_at(0.5), 6)
        0.01
        >>> Range(32, 128, values=(32, 64, 128)).value_at(0.5)
        64
        >>> Range(0, 1, values=("relu", "gelu")).position("gelu")
        0.75
    """

    low: float
    high: float
    scale: Literal["linear", "log", "log-to-one"] = "linear"
    whole: bool = False
    values: tuple[Any, ...] = ()  # of a task's own choices, which are of any kind

    @property
    def is_ordered(self) -> bool:
        """False if the values are texts, booleans or None, between which there are no distances."""
        return all(type(value) in (int, float) for value in self.values)

    def _forward(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return -math.log1p(-value) if self.scale == "log-to-one" else value

    def _backward(self, value: float) -> float:
        if self.scale == "log":
            return math.exp(value)
        return -math.expm1(-value) if self.scale == "log-to-one" else value

    @property
    def _ends(self) -> tuple[float, float]:
        """The ends of the range on its scale; a whole number stands for the numbers that are rounded to it."""
        margin = 0.5 if self.whole else 0.0
        return self._forward(self.low - margin), self._forward(self.high + margin)

    def value_at(self, position: float) -> Any:
        """Return the value at a position between 0 (``low``) and 1 (``high``)."""
        if self.values:
            return self.values[min(max(int(position * len(self.values)), 0), len(self.values) - 1)]
        low, high = self._ends
        return self.clamp(self._backward(low + position * (high - low)))

    def clamp(self, value: Any) -> Any:
        """Return the value of the range that is nearest to ``value``.

        Raises:
            ValueError: If the values have no order, and this is none of them.
        """
        if not self.is_ordered:
            if value not in self.values:
                raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.values))}")
            return self.values[self.values.index(value)]
        if self.values:
            return min(self.values, key=lambda allowed: abs(allowed - value))
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.whole else nearest

    def position(self, value: Any) -> float:
        """Return the position of a value: 0 at ``low``, 1 at ``high``, outside [0, 1] beyond them.

        One of several ``values``, or a whole number, has the position in the middle of its share.
        """
        if self.values:
            return (self.values.index(self.clamp(value)) + 0.5) / len(self.values)
        low, high = self._ends
        return (self._forward(value) - low) / (high - low)

    def including(self, values: Iterable[float]) -> "Range":
        """Return the range, extended as far as these values lie outside; values that its scale lacks change nothing.

        Example:
            >>> Range(1e-3, 1.0, "log").including([0.01, 4.0, 0.0])
            Range(low=0.001, high=4.0, scale='log', whole=False, values=())
        """
        inside = [value for value in values if self.scale != "log" or value > 0]
        return replace(self, low=min([self.low, *inside]), high=max([self.high, *inside]))

    def end_near(self, value: Any, share: float) -> Literal["lower", "upper"] | None:
        """Return the end of the range that is near a value, beyond which a better one may lie.

        Args:
            value: The value.
            share: The share of the range that counts as near. Of three whole numbers or ``values`` or more, the first
                and the last are near; of two, none is. Values without an order have no ends.
        """
        if not self.is_ordered:
            return None
        if self.values or self.whole:
            count = len(self.values) or int(self.high - self.low) + 1
            if count > 2 and value in (self.low, self.high):
                return "lower" if value == self.low else "upper"
        if self.values:
            return None
        position = self.position(value)
        return "lower" if position < share else "upper" if position > 1 - share else None

    def to_json(self) -> dict[str, Any]:
        """Return the range as plain JSON. Fields at their defaults that old stores lack are left out."""
        stored: dict[str, Any] = {"low": self.low, "high": self.high, "scale": self.scale}
        return stored | ({"whole": True} if self.whole else {}) | ({"values": list(self.values)} if self.values else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Range":
        """Return the range that ``to_json`` stored."""
        return cls(**{**stored, "values": tuple(stored.get("values", ()))})
