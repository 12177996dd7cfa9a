"""Identities of the objects in a list."""

from array import array

import pytest

from thalweg.engine.core import object_ids
from thalweg.engine.core.object_ids import ObjectList, has_none, ids_of


def test_ids_are_those_of_python() -> None:
    for count in (0, 1, 2, 1000):
        objects = [object() for _ in range(count)]
        assert ids_of(objects) == array("Q", map(id, objects)).tobytes()
        objects.append(object())  # memory that has moved
        assert ids_of(objects) == array("Q", map(id, objects)).tobytes()
    assert ids_of([[1], [1]]) != ids_of([[1], [1]])  # equal, and other objects


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33, 400])
def test_lists_are_equal_if_their_objects_are_the_same(count: int) -> None:
    objects = [[k] for k in range(count)]
    known = ObjectList(objects)
    assert known.equals(objects)
    assert known.equals(list(objects))
    assert not known.equals(objects[:-1])
    assert not known.equals([*objects, objects[0]])
    for k in {0, count - 1}:
        assert not known.equals([*objects[:k], list(objects[k]), *objects[k + 1 :]])  # equal, and another object


def test_none_is_found_by_identity() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    for count in (1, 40):
        assert not has_none([Equal()] * 2 * count)
        assert has_none([*[Equal()] * count, None, *[Equal()] * count])
    assert not has_none([])


def test_bytes_that_look_like_none_between_two_ids_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    none = ids_of([None])
    monkeypatch.setattr(object_ids, "_in_one_copy", lambda _: b"\0\0\0\0" + none + b"\0\0\0\0")
    monkeypatch.setattr(object_ids, "_FEWEST_IN_ONE_COPY", 2)
    assert not has_none([1, 2])
