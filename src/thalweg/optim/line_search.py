"""Line search: how far to go along a line, so that the loss falls by enough and its slope is nearly gone.

φ(t) is the loss at t along the line. Wanted is a t at which the strong Wolfe conditions hold,

    φ(t) ≤ φ(0) + c₁ t φ'(0)        |φ'(t)| ≤ -c₂ φ'(0)

Source: Nocedal & Wright 2006, Numerical Optimization, Algorithms 3.5 and 3.6, and equation 3.59. The constants, the
safeguards and when they act are those of minFunc and of torch.optim.LBFGS, so that trajectories agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FALL = 1e-4  # c₁
SLOPE = 0.9  # c₂
LEAST_GROWTH, MOST_GROWTH = 0.01, 10.0  # of a step that is too short: in shares of the last growth, and of the step
MARGIN = 0.1  # share of a bracket within which a point is too close to its end


@dataclass(frozen=True)
class Point:
    """A place on the line, the loss and its slope there, and whatever the caller wants back with it.

    Where loss or slope are not finite the loss counts as infinite: too far.
    """

    t: float
    value: float
    slope: float
    found: Any = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.slope)):
            object.__setattr__(self, "value", math.inf)


def strong_wolfe(
    phi: Callable[[float], Point], start: Point, *, most: int, is_narrow: Callable[[float], bool]
) -> Point:
    """A point at which the conditions hold, looking at t = 1 first.

    Args:
        phi: looks at a point
        start: that at t = 0, whose slope is negative
        most: points to look at after the first
        is_narrow: whether a bracket of this width is not worth a look

    Where no such point is found it is the lowest one of the last bracket, which may be `start`; its loss is finite.

    """

    def too_high(point: Point) -> bool:
        return point.value > start.value + FALL * point.t * start.slope or point.value == math.inf

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -SLOPE * start.slope

    before, point = start, phi(1.0)
    for looked in range(most):
        if too_high(point) or (looked > 1 and point.value >= before.value):
            break
        if flat(point):
            return point
        if point.slope >= 0:
            break
        shortest = point.t + LEAST_GROWTH * (point.t - before.t)
        before, point = point, phi(_lowest_of_cubic(before, point, shortest, MOST_GROWTH * point.t))
    else:
        return point if point.value < start.value else start
    return _zoomed(phi, (before, point), too_high, flat, is_narrow, most - looked)


def _zoomed(
    phi: Callable[[float], Point],
    bracket: tuple[Point, Point],
    too_high: Callable[[Point], bool],
    flat: Callable[[Point], bool],
    is_narrow: Callable[[float], bool],
    most: int,
) -> Point:
    """The point of a bracket at which the conditions hold, or the lowest one found. Algorithm 3.6."""
    ends = list(bracket)
    low = _lower(ends)
    was_close = False
    for _ in range(most):
        left, right = sorted(end.t for end in ends)
        if is_narrow(right - left):
            break
        t = _lowest_of_cubic(ends[0], ends[1], left, right)
        margin = MARGIN * (right - left)
        close = min(right - t, t - left) < margin
        if close and (was_close or not left < t < right):  # twice in a row, or at the end itself: further inside
            t = right - margin if right - t < t - left else left + margin
            close = False
        was_close = close
        point = phi(t)
        if too_high(point) or point.value >= ends[low].value:
            ends[1 - low] = point
            low = _lower(ends)
            continue
        if flat(point):
            return point
        if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = point
    return ends[low]


def _lower(ends: list[Point]) -> int:
    return 0 if ends[0].value <= ends[1].value else 1


def _lowest_of_cubic(one: Point, other: Point, least: float, most: float) -> float:
    """Where the cubic through two points with their slopes is lowest, within bounds; their middle if it has no such."""
    left, right = (one, other) if one.t <= other.t else (other, one)
    width = right.t - left.t
    if width > 0:
        d1 = left.slope + right.slope - 3 * (right.value - left.value) / width
        square = d1 * d1 - left.slope * right.slope
        d2 = math.sqrt(square) if square >= 0 else math.nan
        below = right.slope - left.slope + 2 * d2
        t = right.t - width * ((right.slope + d2 - d1) / below) if below else math.nan
        if math.isfinite(t):
            return min(max(t, least), most)
    return (least + most) / 2
