"""Rows: small named tuples, made on the spot, for what a rule computes and remembers.

A named tuple is immutable, reads by name (`state.m`), and is a pytree, so `vmap` and the compiler look inside it.
"""

from collections import namedtuple
from functools import cache
from typing import Any


@cache
def _record_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Record", names)  # noqa: PYI024  (the names are known only here)


def record(**values: Any) -> Any:
    """A named tuple of the values, in the order given."""
    return _record_type(tuple(values))(*values.values())
