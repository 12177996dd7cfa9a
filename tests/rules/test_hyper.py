import pytest

from thalweg.rules import Range
from thalweg.rules.core.hyper import Bound


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">= 0", [0.0, 1e9], [-1e-9, float("inf"), float("nan")]),
        ("> 0", [1e-9], [0.0]),
        ("[0, 1)", [0.0, 0.5], [1.0, -0.1]),
        ("(0, 1]", [1.0], [0.0]),
    ],
)
def test_a_bound_reads_as_it_is_written(text: str, inside: list[float], outside: list[float]) -> None:
    assert all(value in Bound(text) for value in inside)
    assert not any(value in Bound(text) for value in outside)


@pytest.mark.parametrize("scale", ["linear", "log", "log-to-one"])
def test_a_range_goes_from_low_to_high_and_back(scale: str) -> None:
    bounds = Range(0.5, 0.99, scale)
    assert (bounds.value_at(0), bounds.value_at(1)) == pytest.approx((0.5, 0.99))
    for position in (0.1, 0.5, 0.9):
        assert bounds.position(bounds.value_at(position)) == pytest.approx(position)


def test_the_middle_of_a_range_is_that_of_its_scale() -> None:
    assert Range(1e-4, 1.0, "log").value_at(0.5) == pytest.approx(1e-2)
    assert Range(0.9, 0.999, "log-to-one").value_at(0.5) == pytest.approx(0.99)
