"""Records: named tuples whose fields are chosen at run time. State and coefficients of rules are records.

A named tuple is immutable, is read by name (``state.m``), and is a pytree, so ``vmap`` and compilers look inside it.
"""

from collections import namedtuple
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol, Self


class Record(Protocol):
    """A named tuple whose fields are chosen at run time."""

    @property
    def _fields(self) -> tuple[str, ...]:
        """The names of the fields."""

    def __getattr__(self, name: str) -> Any: ...
    def __getitem__(self, position: int) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def _asdict(self) -> dict[str, Any]: ...
    def _replace(self, **values: Any) -> Self: ...


@cache
def _record_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Record", names)  # noqa: PYI024  (the names are known only here)


def record(**values: Any) -> Record:
    """Return a named tuple of values.

    Args:
        **values: The values by name. The fields have the order of the arguments.

    Returns:
        The record. It is immutable; ``record._replace(name=value)`` returns a changed copy.

    Example:
        >>> record(lr=0.1, beta=0.9)
        Record(lr=0.1, beta=0.9)
    """
    result: Record = _record_type(tuple(values))(*values.values())
    return result
