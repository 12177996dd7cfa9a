"""Line search: the length of a way along a line that lowers the loss enough and leaves little slope.

φ(t) is the loss at t along the line. The search returns a t at which the strong Wolfe conditions hold:

    φ(t) ≤ φ(0) + c₁ t φ'(0)        |φ'(t)| ≤ -c₂ φ'(0)

Source: Nocedal & Wright 2006, Numerical Optimization, Algorithms 3.5 and 3.6, and equation 3.59. The constants and
safeguards, and when they act, are those of minFunc and of torch.optim.LBFGS, so that trajectories agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

SUFFICIENT_DECREASE = 1e-4  # c₁
CURVATURE = 0.9  # c₂
MIN_GROWTH = 0.01  # of a step that is too short, as a share of its last growth
MAX_GROWTH = 10.0  # of a step that is too short, as a multiple of the step
MARGIN = 0.1  # share of a bracket within which a point is too close to its end

_E = TypeVar("_E")


@dataclass(frozen=True)
class Point(Generic[_E]):
    """A point on the line.

    Attributes:
        t: The position on the line, 0 at its start.
        loss: The loss at the point; infinite if the loss or the slope is not finite.
        slope: The derivative of the loss by t.
        evaluation: A value of the caller's that belongs to the point.
    """

    t: float
    loss: float
    slope: float
    evaluation: _E

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loss) and math.isfinite(self.slope)):
            object.__setattr__(self, "loss", math.inf)


def strong_wolfe(
    evaluate: Callable[[float], Point[_E]],
    start: Point[_E],
    *,
    max_evaluations: int,
    is_narrow: Callable[[float], bool],
) -> Point[_E]:
    """Search for a point at which the strong Wolfe conditions hold, from t = 1.

    Args:
        evaluate: A function from t to the point there.
        start: The point at t = 0. Its slope is negative.
        max_evaluations: The largest number of evaluations after the first one.
        is_narrow: A function that returns True if a bracket of this width is not worth another evaluation.

    Returns:
        The point. If none was found it is the lowest one of the last bracket, which may be `start`; its loss is finite.
    """

    def is_too_high(point: Point[_E]) -> bool:
        return point.loss > start.loss + SUFFICIENT_DECREASE * point.t * start.slope or point.loss == math.inf

    def is_flat(point: Point[_E]) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    previous, point = start, evaluate(1.0)
    for num_evaluations in range(max_evaluations):
        if is_too_high(point) or (num_evaluations > 1 and point.loss >= previous.loss):
            break
        if is_flat(point):
            return point
        if point.slope >= 0:
            break
        shortest = point.t + MIN_GROWTH * (point.t - previous.t)
        previous, point = point, evaluate(_minimum_of_cubic(previous, point, shortest, MAX_GROWTH * point.t))
    else:
        return point if point.loss < start.loss else start
    return _zoom(evaluate, (previous, point), is_too_high, is_flat, is_narrow, max_evaluations - num_evaluations)


def _zoom(
    evaluate: Callable[[float], Point[_E]],
    bracket: tuple[Point[_E], Point[_E]],
    is_too_high: Callable[[Point[_E]], bool],
    is_flat: Callable[[Point[_E]], bool],
    is_narrow: Callable[[float], bool],
    max_evaluations: int,
) -> Point[_E]:
    """Return a point of a bracket at which the conditions hold, or the lowest point. Algorithm 3.6."""
    ends = list(bracket)
    low = _index_of_lower(ends)
    was_close = False
    for _ in range(max_evaluations):
        left, right = sorted(end.t for end in ends)
        if is_narrow(right - left):
            break
        t = _minimum_of_cubic(ends[0], ends[1], left, right)
        margin = MARGIN * (right - left)
        is_close = min(right - t, t - left) < margin
        if is_close and (was_close or not left < t < right):  # twice in a row, or at the end itself: move inwards
            t = right - margin if right - t < t - left else left + margin
            is_close = False
        was_close = is_close
        point = evaluate(t)
        if is_too_high(point) or point.loss >= ends[low].loss:
            ends[1 - low] = point
            low = _index_of_lower(ends)
            continue
        if is_flat(point):
            return point
        if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = point
    return ends[low]


def _index_of_lower(ends: list[Point[_E]]) -> int:
    return 0 if ends[0].loss <= ends[1].loss else 1


def _minimum_of_cubic(first: Point[_E], second: Point[_E], low: float, high: float) -> float:
    """Return the t between bounds at which the cubic through two points is lowest, or their middle if it has none."""
    left, right = (first, second) if first.t <= second.t else (second, first)
    width = right.t - left.t
    if width > 0:
        d1 = left.slope + right.slope - 3 * (right.loss - left.loss) / width
        square = d1 * d1 - left.slope * right.slope
        d2 = math.sqrt(square) if square >= 0 else math.nan
        divisor = right.slope - left.slope + 2 * d2
        t = right.t - width * ((right.slope + d2 - d1) / divisor) if divisor else math.nan
        if math.isfinite(t):
            return min(max(t, low), high)
    return (low + high) / 2
