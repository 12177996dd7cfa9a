"""``thalweg.show``: the paths of optimizers over a surface, as a figure of matplotlib."""

from collections.abc import Callable, Sequence

from torch import Tensor

from thalweg.report.pictures.figure import Picture, draw_picture
from thalweg.trajectories import Surface, trace
from thalweg.trajectories.surfaces import Point
from thalweg.trajectories.trace import Optimizers


def show(
    surface: str | Surface | Callable[[Tensor], Tensor],
    optimizers: Optimizers,
    *,
    steps: int | None = None,
    start: Point | Sequence[Point] | None = None,
    lr: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
    narrow: bool = False,
) -> Picture:
    """Draw the paths of optimizers over a surface.

    The figure is shown by a notebook, and saved by ``figure.savefig``. It does not touch pyplot. The numbers are in
    ``figure.trajectories``.

    Args:
        surface: ``"rosenbrock"``, ``"quadratic"``, ``"himmelblau"``, ``"beale"``, ``"rastrigin"``, ``"ackley"`` or
            ``"saddle"``; a function that takes points of shape (..., 2) and returns heights of shape (...); or a
            ``thalweg.trajectories.Surface``, which also has a frame.
        optimizers: What ``thalweg.compare`` accepts: names with settings, rules, classes; or a comma-separated list. At
            most eight.
        steps: Number of steps, 1 to 5,000; None for the number of the surface.
        start: The first point (x, y), or several, at most eight; None for the start of the surface.
        lr: The learning rate of all optimizers that do not fix their own (``adam:lr=0.1``). None chooses, for each
            optimizer, that whose path ends lowest, from 1, 2 and 5 times each power of ten from 1e-5 to 10.
        noise: Standard deviation of the noise that is added to each coordinate of the gradient, >= 0. All optimizers
            get the same noise; those that work on the full batch get none.
        seed: Seed of the noise.
        narrow: True puts the curves below the contours, for a narrow column.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        UnknownNameError: If there is no such surface or optimizer.
        SettingError: If an argument is out of its bounds.
        ParameterError: If an optimizer cannot step a single point.

    Example:
        >>> import thalweg
        >>> figure = thalweg.show("quadratic", ["momentum", "adam:lr=0.2"])
        >>> [(paths.name, paths.lr) for paths in figure.trajectories.optimizers]
        [('momentum', 0.5), ('adam:lr=0.2', 0.2)]
    """
    return draw_picture(
        trace(surface, optimizers, steps=steps, start=start, lr=lr, noise=noise, seed=seed), narrow=narrow
    )
