"""Trace: the paths of optimizers over a surface, each at the learning rate that suits it there."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import resolve
from thalweg.errors import SettingError, shown
from thalweg.rules import Rule
from thalweg.tasks import seeded
from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.trajectories.descent import ROW, can_descend_together, descend, descend_together, shape_for, task_of
from thalweg.trajectories.learning_rates import best_of, learning_rates_of
from thalweg.trajectories.surfaces import Point, Surface, find_surface
from thalweg.trajectories.trajectory import OptimizerPaths, Trajectories, Trajectory, trajectory_of

MAX_OPTIMIZERS = 8  # more colours cannot be told apart
MAX_STEPS = 5000
MAX_STARTS = 8

Optimizers = str | Iterable[str | Rule | Contender | Callable[..., Any]]


def trace(
    surface: str | Surface | Callable[[Tensor], Tensor],
    optimizers: Optimizers,
    *,
    steps: int | None = None,
    start: Point | Sequence[Point] | None = None,
    lr: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
    progress: Callable[[str, int, int], object] = lambda name, done, total: None,
) -> Trajectories:
    """Return the paths of optimizers over a surface.

    Each optimizer takes its own steps, as in a comparison: weight decay is off unless you set it, and L-BFGS counts
    each evaluation of the gradient as a step.

    Args:
        surface: A name from ``SURFACES``, a function of yours, or a ``Surface``.
        optimizers: What ``thalweg.compare`` accepts: names with settings, rules, classes; or a comma-separated list. At
            most eight.
        steps: Number of steps, 1 to 5,000; None for the number of the surface.
        start: The first point (x, y), or several, at most eight; None for the start of the surface.
        lr: The learning rate of all optimizers that do not fix their own (``adam:lr=0.1``). None chooses, for each
            optimizer, that whose path ends lowest, from 1, 2 and 5 times each power of ten from 1e-5 to 10.
        noise: Standard deviation of the noise that is added to each coordinate of the gradient, >= 0. All optimizers
            get the same noise; those that work on the full batch get none.
        seed: Seed of the noise.
        progress: Called before each optimizer starts from each point: with its name, the number of pairs of optimizer
            and start that are done, and their total.

    Returns:
        The paths, in the order of the optimizers.

    Raises:
        UnknownNameError: If there is no such surface or optimizer.
        SettingError: If an argument is out of its bounds.
        ParameterError: If an optimizer cannot step a single point.

    Example:
        >>> paths = trace("rosenbrock", "gd,adam", steps=100)
        >>> [(optimizer.name, optimizer.lr) for optimizer in paths.optimizers]
        [('gd', 0.001), ('adam', 0.2)]
    """
    surface = find_surface(surface)
    contenders = resolve(optimizers)
    if len(contenders) > MAX_OPTIMIZERS:
        raise SettingError(
            f"show: at most {MAX_OPTIMIZERS} optimizers have colours that can be told apart, got {len(contenders)}. "
            "Name fewer of them."
        )
    steps = surface.steps if steps is None else steps
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MAX_STEPS:
        raise SettingError(f"show: steps must be a whole number from 1 to {MAX_STEPS:,}, got {shown(steps)}.")
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < math.inf:
        raise SettingError(f"show: noise must be a number >= 0, got {shown(noise)}.")
    starts = _starts(surface, start)
    contenders = [_prepared(contender) for contender in contenders]
    with isolated():
        paths = []
        for place, contender in enumerate(contenders):
            done, total = place * len(starts), len(contenders) * len(starts)
            report = partial(_report, progress, contender.name, done, total)
            paths.append(_paths_of(contender, surface, starts, steps, lr, float(noise), seed, report))
    return Trajectories(surface, starts, steps, float(noise), seed, tuple(paths))


def _report(progress: Callable[[str, int, int], object], name: str, done: int, total: int, place: int) -> None:
    progress(name, done + place, total)


def _starts(surface: Surface, start: Point | Sequence[Point] | None) -> tuple[Point, ...]:
    if start is None:
        return (surface.start,)
    message = f"show: start must be a point (x, y) of finite numbers, or 1 to {MAX_STARTS} points, got {shown(start)}."
    try:
        items: list[Any] = list(start)
        points = [items] if isinstance(items[0], int | float) else items
        starts = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError, IndexError):
        raise SettingError(message) from None
    if not 1 <= len(starts) <= MAX_STARTS or not all(math.isfinite(part) for point in starts for part in point):
        raise SettingError(message)
    for point in starts:
        if not math.isfinite(surface.height_at(point)):
            raise SettingError(f"show: the surface must have a height at the start, got {point}. Start elsewhere.")
    return starts


def _prepared(contender: Contender) -> Contender:
    """Return a contender for a single point; warn of settings that contradict each other.

    Raises:
        SettingError: If the contender divides the parameters of a model.
    """
    rule = contender.thalweg_rule
    if rule is not None and rule.parts:
        first, *_ = rule.parts
        raise SettingError(
            f"show: a surface has a single parameter, so it cannot be divided among rules, got {contender.name}. "
            f"Write {first}, say."
        )
    contender.warn_of_settings()
    return contender.keeping_the_optimum()


def _paths_of(
    contender: Contender,
    surface: Surface,
    starts: Sequence[Point],
    steps: int,
    lr: float | None,
    noise: float,
    seed: int,
    report: Callable[[int], object],
) -> OptimizerPaths:
    """Return the paths of one optimizer at its best learning rate."""
    shape = shape_for(contender)
    rates = learning_rates_of(contender, lr)
    by_start: list[list[Trajectory]] = []
    for place, start in enumerate(starts):
        report(place)
        task = task_of(surface, start, shape, steps, noise, seed)
        with seeded(seed):
            if len(rates) > 1 and can_descend_together(contender):
                paths = descend_together(contender, surface, task, rates, steps, seed)
            else:
                paths = [descend(contender, task, rate, steps, seed) for rate in rates]
        by_start.append([trajectory_of(surface, points) for points in paths])
    candidates = list(zip(*by_start, strict=True))
    best = best_of(surface, candidates)
    tried = rates if len(rates) > 1 else ()
    return OptimizerPaths(contender.name, rates[best], tried, shape == ROW, candidates[best])
