"""Identities of the objects in a list."""

from array import array

import pytest

from thalweg.engine.core import object_ids
from thalweg.engine.core.object_ids import has_none, ids_of


def test_ids_are_those_of_python() -> None:
    for count in (0, 1, 2, 1000):
        objects = [object() for _ in range(count)]
        assert ids_of(objects) == array("Q", map(id, objects)).tobytes() == object_ids._ids_one_by_one(objects)
        objects.append(object())  # memory that has moved
        assert ids_of(objects) == array("Q", map(id, objects)).tobytes()
    assert ids_of([[1], [1]]) != ids_of([[1], [1]])  # equal, and other objects


def test_none_is_found_by_identity() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    assert not has_none([Equal(), Equal()])
    assert has_none([Equal(), None, Equal()])
    assert not has_none([])


def test_bytes_that_look_like_none_between_two_ids_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    none = ids_of([None])
    monkeypatch.setattr(object_ids, "_ids", lambda _: b"\0\0\0\0" + none + b"\0\0\0\0")
    assert not has_none([1, 2])
