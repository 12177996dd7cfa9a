"""Parts of a result, each made by itself."""

from collections.abc import Iterator

from thalweg.errors import StoreError
from thalweg.parts import Parts


def test_a_part_is_missing_until_it_can_be_made() -> None:
    parts = Parts()

    def fail() -> str:
        raise StoreError("the page: the folder must be writable, and is not")

    assert parts.make("the page", fail, "none") == "none"
    assert parts.make("the page", fail, "none") == "none"
    assert parts.make("the verdict", lambda: 1 // 0, 0) == 0
    assert [part.name for part in parts.missing] == ["the page", "the verdict"]
    assert [part.is_bug for part in parts.missing] == [False, True]
    assert parts.make("the page", lambda: "made", "none") == "made"
    assert [part.name for part in parts.missing] == ["the verdict"]


def test_parts_that_a_result_lacks_come_first_and_are_those_of_now() -> None:
    losses: list[tuple[str, Exception]] = []
    parts = Parts(lambda: losses)
    parts.make("the verdict", lambda: 1 // 0, 0)
    losses.append(("a part of the store", StoreError("the store is damaged")))
    assert [part.name for part in parts.missing] == ["a part of the store", "the verdict"]
    losses.clear()
    assert [part.name for part in parts.missing] == ["the verdict"]


def test_a_check_that_raises_is_a_missing_part_and_keeps_what_it_had_told() -> None:
    def losses() -> Iterator[tuple[str, Exception]]:
        yield "a part of the store", StoreError("the store is damaged")
        raise KeyError("no verdict")

    names = [(part.name, part.is_bug) for part in Parts(losses).missing]
    assert names == [("a part of the store", False), ("the check of the result", True)]
