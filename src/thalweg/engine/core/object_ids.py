"""Object ids: the identities of the objects in a list, read in one copy of memory.

A step compares hundreds of tensors and dictionaries with those that it knows, by identity. One by one, that takes as
long as launching their kernel.
"""

import ctypes
import sys
from array import array
from typing import Any

# `ob_item` of PyListObject in CPython's listobject.h: the address of the pointers to the items.
_ITEMS_OFFSET = 24
_POINTER_BYTES = 8
_FEW = 32  # objects: their ids are read faster one by one


def _ids_one_by_one(objects: list[Any]) -> bytes:
    return array("Q", map(id, objects)).tobytes()


def _ids_in_one_copy(objects: list[Any]) -> bytes:
    if len(objects) < _FEW:
        return _ids_one_by_one(objects)
    items = ctypes.c_size_t.from_address(id(objects) + _ITEMS_OFFSET).value
    return ctypes.string_at(items, _POINTER_BYTES * len(objects))


def _layout_is_known() -> bool:
    """Return True if lists lie in memory as they do in CPython with a lock for the interpreter."""
    sizes = (object.__basicsize__, list.__basicsize__, ctypes.sizeof(ctypes.c_void_p))
    if sys.implementation.name != "cpython" or sizes != (16, 40, _POINTER_BYTES):
        return False
    sample = [object() for _ in range(_FEW)]
    return _ids_in_one_copy(sample) == _ids_one_by_one(sample)


_ids = _ids_in_one_copy if _layout_is_known() else _ids_one_by_one
_NONE = _ids([None])


def ids_of(objects: list[Any]) -> bytes:
    """Return the ids of objects, 8 bytes each.

    Args:
        objects: The objects. Their ids are those of other objects once they are gone.

    Example:
        >>> first, second = object(), object()
        >>> ids_of([first, second]) == ids_of([first]) + ids_of([second])
        True
    """
    return _ids(objects)


def has_none(objects: list[Any]) -> bool:
    """Return True if None is among some objects.

    Example:
        >>> has_none([1, None]), has_none([1, 2])
        (True, False)
    """
    # The bytes of two neighbours may look like those of None.
    return _NONE in _ids(objects) and any(each is None for each in objects)
