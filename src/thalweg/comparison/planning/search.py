"""Search: the settings that each contender tries. Quasi-random points in its own space, its starting point first."""

from collections.abc import Mapping
from typing import Any

from scipy.stats import qmc

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.rules import Range

MIN_TRIALS_FOR_ORDER_2, MIN_TRIALS_FOR_ORDER_3 = 10, 25


def order_opened_by(trials: int) -> int:
    """Return the order up to which settings are searched with this number of trials.

    Order 1 is the learning rate, order 2 adds the first momentum, order 3 everything else.

    Example:
        >>> [order_opened_by(trials) for trials in (9, 10, 25)]
        [1, 2, 3]
    """
    return 1 if trials < MIN_TRIALS_FOR_ORDER_2 else 2 if trials < MIN_TRIALS_FOR_ORDER_3 else 3


def draw_settings(
    contender: Contender,
    trials: int,
    *,
    seed: int,
    with_start: bool = True,
    with_user_settings: bool = False,
    space: Mapping[str, Range] | None = None,
) -> list[Settings]:
    """Draw the settings of each trial of a study: points of a scrambled Sobol sequence.

    Args:
        contender: The contender.
        trials: Number of settings to draw; a contender without a search space has one setting.
        seed: Seed of the scrambling.
        with_start: True to have the contender's own defaults as the first setting.
        with_user_settings: True to have the user's settings before those that are drawn.
        space: Search range of each setting; None for the settings that so many trials open.
    """
    space = contender.space(order_opened_by(trials)) if space is None else space
    start = start_values(contender, space)
    for name in contender.ranges.keys() & space.keys():  # within the range that the user gave
        start[name] = space[name].clamp(start[name])
    first = [start] if with_start or not space else []
    if with_user_settings:
        first += [{**start, **settings} for settings in contender.user_settings]
    first = first[:trials]
    count = trials - len(first)
    if not space or count == 0:
        return first
    sequence = qmc.Sobol(len(space), scramble=True, rng=seed)
    points = sequence.random_base2((count - 1).bit_length())[:count]
    drawn = [
        {name: rounded(bounds, float(position)) for (name, bounds), position in zip(space.items(), point, strict=True)}
        for point in points
    ]
    return [*first, *drawn]


def start_values(contender: Contender, space: Mapping[str, Range]) -> Settings:
    """Return the contender's own value of each searched setting; a number is a float unless the range is whole."""
    own = contender.start_settings()
    return {
        name: own[name] if name in contender.task_settings or bounds.whole else float(own[name])
        for name, bounds in space.items()
    }


def rounded(bounds: Range, position: float) -> Any:
    """Return the value at a position from 0 to 1; a number is rounded to five digits.

    The number that is printed for pasting is then exactly the number that was trained.
    """
    if not bounds.is_ordered:
        return bounds.value_at(position)
    return bounds.clamp(float(f"{bounds.value_at(position):.5g}"))
