"""Line search: the conditions hold on lines that are hard in different ways."""

import math
from collections.abc import Callable

import pytest

from thalweg.optim.line_search import FALL, SLOPE, Point, strong_wolfe

Line = Callable[[float], tuple[float, float]]


def bowl(at: float, scale: float = 1.0) -> Line:
    return lambda t: (scale * (t - at) ** 2, 2 * scale * (t - at))


def walled(t: float) -> tuple[float, float]:
    """Not a number from 0.3 on."""
    return (-math.log(0.3 - t) - 10 * t, 1 / (0.3 - t) - 10) if t < 0.3 else (math.nan, math.nan)


def edge(t: float) -> tuple[float, float]:
    """Infinite from 0.5 on."""
    return ((t - 0.45) ** 4, 4 * (t - 0.45) ** 3) if t < 0.5 else (math.inf, math.inf)


def hyperbola(t: float) -> tuple[float, float]:
    return math.hypot(1.0, 50 * (t - 2.0)), 2500 * (t - 2.0) / math.hypot(1.0, 50 * (t - 2.0))


def search(line: Line, most: int = 25) -> tuple[Point, Point, list[float]]:
    seen: list[float] = []

    def phi(t: float) -> Point:
        seen.append(t)
        return Point(t, *line(t), t)

    start = Point(0.0, *line(0.0), 0.0)
    return start, strong_wolfe(phi, start, most=most, is_narrow=lambda width: width < 1e-12), seen


LINES = {
    **{f"bowl at {at:g}": bowl(at) for at in (1e-6, 0.01, 0.4, 1.0, 1.7, 30.0, 4000.0)},
    "steep bowl": bowl(0.2, 1e8),
    "walled": walled,
    "edge": edge,
    "hyperbola": hyperbola,
}


@pytest.mark.parametrize("name", LINES)
def test_the_conditions_hold(name: str) -> None:
    start, found, seen = search(LINES[name])
    assert found.value <= start.value + FALL * found.t * start.slope
    assert abs(found.slope) <= SLOPE * abs(start.slope)
    assert found.found == found.t
    assert found.t in seen
    assert len(seen) <= 15


def test_it_looks_at_the_first_length_first_and_no_further_if_that_will_do() -> None:
    assert search(bowl(1.2))[2] == [1.0]


def test_a_bowl_is_solved_by_one_interpolation() -> None:
    _, found, seen = search(bowl(0.01))
    assert len(seen) == 2
    assert found.t == pytest.approx(0.01)


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_where_looks_run_out_the_lowest_is_kept(most: int) -> None:
    for line in (bowl(1e-9), bowl(1e9), walled, edge):
        start, found, seen = search(line, most)
        assert len(seen) <= 1 + most
        assert found.value == min(start.value, *(Point(t, *line(t)).value for t in seen))
        assert math.isfinite(found.value)


def test_a_line_that_is_never_finite_leads_nowhere() -> None:
    start, found, _ = search(lambda t: (math.nan, math.nan) if t else (1.0, -1.0))
    assert found is start


def test_a_line_without_a_bottom_ends() -> None:
    _, found, seen = search(lambda t: (-t, -1.0))
    assert found.t == max(seen)
    assert len(seen) <= 26
