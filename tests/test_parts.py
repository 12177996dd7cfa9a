"""Parts of a result, each made by itself."""

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
