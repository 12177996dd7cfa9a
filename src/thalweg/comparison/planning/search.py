"""Search: which settings each contender tries. Quasi-random points in its own space, its starting point first."""

from collections.abc import Mapping

from scipy.stats import qmc

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.rules import Range


def order_opened_by(trials: int) -> int:
    """Which hyperparameters a budget opens: under 10 trials the learning rate, under 25 the momentum too, then all."""
    return 1 if trials < 10 else 2 if trials < 25 else 3


def draw_settings(
    contender: Contender,
    trials: int,
    *,
    seed: int,
    with_start: bool = True,
    space: Mapping[str, Range] | None = None,
) -> list[Settings]:
    """The settings of each trial: the contender's own defaults if asked for, then a scrambled Sobol sequence.

    They lie in `space`, by default what so many trials open.
    """
    space = contender.space(order_opened_by(trials)) if space is None else space
    settings = contender.rule.settings()
    defaults = {name: float(settings[name]) for name in space}
    for name in contender.ranges.keys() & space.keys():  # where the user says to search
        defaults[name] = space[name].nearest(defaults[name])
    drawn = trials - 1 if with_start else trials
    if not space or drawn == 0:
        return [defaults]
    sequence = qmc.Sobol(len(space), scramble=True, rng=seed)
    points = sequence.random_base2((drawn - 1).bit_length())[:drawn]
    found = [
        {name: rounded(bounds, float(position)) for (name, bounds), position in zip(space.items(), point, strict=True)}
        for point in points
    ]
    return [defaults, *found] if with_start else found


def rounded(bounds: Range, position: float) -> float:
    """The value at a position, to five digits, so that what is printed for pasting is exactly what was trained."""
    return bounds.nearest(float(f"{bounds.at(position):.5g}"))
