"""Line search: the conditions hold on lines that are hard in different ways."""

import math
from collections.abc import Callable

import pytest

from thalweg.optim.closures.line_search import CURVATURE, SUFFICIENT_DECREASE, Point, strong_wolfe

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


def search(line: Line, max_evaluations: int = 25) -> tuple[Point[float], Point[float], list[float]]:
    """Return the start, the accepted point and every t that was evaluated."""
    evaluated: list[float] = []

    def evaluate(t: float) -> Point[float]:
        evaluated.append(t)
        return Point(t, *line(t), t)

    start = Point(0.0, *line(0.0), 0.0)
    accepted = strong_wolfe(evaluate, start, max_evaluations=max_evaluations, is_narrow=lambda width: width < 1e-12)
    return start, accepted, evaluated


LINES = {
    **{f"bowl at {at:g}": bowl(at) for at in (1e-6, 0.01, 0.4, 1.0, 1.7, 30.0, 4000.0)},
    "steep bowl": bowl(0.2, 1e8),
    "walled": walled,
    "edge": edge,
    "hyperbola": hyperbola,
}


@pytest.mark.parametrize("name", LINES)
def test_the_conditions_hold(name: str) -> None:
    start, accepted, evaluated = search(LINES[name])
    assert accepted.loss <= start.loss + SUFFICIENT_DECREASE * accepted.t * start.slope
    assert abs(accepted.slope) <= CURVATURE * abs(start.slope)
    assert accepted.evaluation == accepted.t
    assert accepted.t in evaluated
    assert len(evaluated) <= 15


def test_the_first_length_is_evaluated_first_and_no_further_if_it_suffices() -> None:
    assert search(bowl(1.2))[2] == [1.0]


def test_a_bowl_is_solved_by_one_interpolation() -> None:
    _, accepted, evaluated = search(bowl(0.01))
    assert len(evaluated) == 2
    assert accepted.t == pytest.approx(0.01)


@pytest.mark.parametrize("max_evaluations", [0, 1, 2, 3])
def test_the_lowest_point_is_accepted_when_evaluations_run_out(max_evaluations: int) -> None:
    for line in (bowl(1e-9), bowl(1e9), walled, edge):
        start, accepted, evaluated = search(line, max_evaluations)
        assert len(evaluated) <= 1 + max_evaluations
        assert accepted.loss == min(start.loss, *(Point(t, *line(t), None).loss for t in evaluated))
        assert math.isfinite(accepted.loss)


def test_a_line_that_is_never_finite_returns_its_start() -> None:
    start, accepted, _ = search(lambda t: (math.nan, math.nan) if t else (1.0, -1.0))
    assert accepted is start


def test_a_line_without_a_minimum_ends() -> None:
    _, accepted, evaluated = search(lambda t: (-t, -1.0))
    assert accepted.t == max(evaluated)
    assert len(evaluated) <= 26
