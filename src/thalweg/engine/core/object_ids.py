"""Object ids: the identities of the objects in a list, read in one copy of memory.

A step compares hundreds of tensors and dictionaries with those that it knows, by identity. One by one, that takes as
long as launching their kernel.
"""

import ctypes
import sys
from array import array
from collections.abc import Iterable
from functools import partial
from operator import is_
from typing import Any

# `ob_item` of PyListObject in CPython's listobject.h: the address of the pointers to the items.
_ITEMS_OFFSET = 24
_POINTER_BYTES = 8
_FEW = 32  # objects: their ids are read faster one by one


def _in_one_copy(objects: list[Any]) -> bytes:
    items = ctypes.c_size_t.from_address(id(objects) + _ITEMS_OFFSET).value
    return ctypes.string_at(items, _POINTER_BYTES * len(objects))


def _layout_is_known() -> bool:
    """Return True if lists lie in memory as they do in CPython with a lock for the interpreter."""
    sizes = (object.__basicsize__, list.__basicsize__, ctypes.sizeof(ctypes.c_void_p))
    if sys.implementation.name != "cpython" or sizes != (16, 40, _POINTER_BYTES):
        return False
    sample = [object() for _ in range(_FEW)]
    return _in_one_copy(sample) == array("Q", map(id, sample)).tobytes()


_FEWEST_IN_ONE_COPY = _FEW if _layout_is_known() else sys.maxsize
_NONE = array("Q", [id(None)]).tobytes()
_IS_NONE = partial(is_, None)


def ids_of(objects: list[Any]) -> bytes:
    """Return the ids of objects, 8 bytes each.

    Args:
        objects: The objects. Their ids are those of other objects once they are gone.

    Example:
        >>> first, second = object(), object()
        >>> ids_of([first, second]) == ids_of([first]) + ids_of([second])
        True
    """
    if len(objects) < _FEWEST_IN_ONE_COPY:
        return array("Q", map(id, objects)).tobytes()
    return _in_one_copy(objects)


class ObjectList:
    """Objects that others are compared with, by identity.

    It holds the objects, so that their ids stay theirs.

    Args:
        objects: The objects.

    Example:
        >>> first, second = object(), object()
        >>> known = ObjectList([first, second])
        >>> known.equals([first, second]), known.equals([second, first]), known.equals([first])
        (True, False, False)
    """

    __slots__ = ("_ids", "_objects")

    def __init__(self, objects: Iterable[Any]) -> None:
        self._objects = list(objects)
        self._ids = ids_of(self._objects)

    def equals(self, objects: list[Any]) -> bool:
        """Return True if these are the same objects in the same order."""
        if len(objects) < _FEWEST_IN_ONE_COPY:
            return len(objects) == len(self._objects) and all(map(is_, objects, self._objects))
        return _in_one_copy(objects) == self._ids


def has_none(objects: list[Any]) -> bool:
    """Return True if None is among some objects.

    Example:
        >>> has_none([1, None]), has_none([1, 2])
        (True, False)
    """
    if len(objects) < _FEWEST_IN_ONE_COPY:
        return any(map(_IS_NONE, objects))
    # The bytes of two neighbours may look like those of None.
    return _NONE in _in_one_copy(objects) and any(map(_IS_NONE, objects))
