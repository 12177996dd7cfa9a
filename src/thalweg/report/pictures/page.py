"""The page of a picture: one self-contained HTML file with an animation, a slider and a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import thalweg
from thalweg.parts import Parts
from thalweg.report.assets import load_assets
from thalweg.report.files import write_page
from thalweg.report.numbers import format_number, shorten
from thalweg.report.pictures.figure import title_of
from thalweg.report.pictures.overlay import svg_of
from thalweg.report.templates import render_template, values_of
from thalweg.trajectories import OptimizerPaths, Trajectories, Trajectory
from thalweg.trajectories.trajectory import TOLERANCE

_NONE = "–"


def write_picture_page(
    trajectories: Trajectories,
    path: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    parts: Parts | None = None,
) -> Path:
    """Write the page of trajectories to a file.

    Args:
        trajectories: The paths.
        path: The HTML file. Its folder is made if it does not exist.
        overwrite: True replaces a file that is no page of thalweg.
        command: The command line that makes this page again.
        parts: Knows the parts of the page that could not be made.

    Returns:
        The path.

    Raises:
        StoreError: If the file cannot be written, is a link, or is no page of thalweg.
    """
    return write_page(path, render_picture(trajectories, command=command, parts=parts), overwrite=overwrite)


def render_picture(trajectories: Trajectories, *, command: str = "", parts: Parts | None = None) -> str:
    """Return the page of trajectories as HTML.

    Args:
        trajectories: The paths.
        command: The command line that makes it again; empty if it was made in Python.
        parts: Knows the parts of the page that could not be made.
    """
    parts = Parts() if parts is None else parts
    return render_template(
        "pictures/page.html", values_of(_values(trajectories, command)), parts, load_assets(with_paths=True)
    )


def _values(trajectories: Trajectories, command: str) -> dict[str, Callable[[], Any]]:
    """Return a function for each value of the template, so that one that raises leaves the others."""
    surface = trajectories.surface
    names = ",".join(paths.name for paths in trajectories.optimizers)
    return {
        "title": lambda: shorten(f"{surface.title}: {names}"),
        "headline": lambda: title_of(trajectories),
        "about": lambda: surface.about,
        "formula": lambda: surface.formula,
        "steps": lambda: trajectories.steps,
        "noise": lambda: trajectories.noise,
        "seed": lambda: trajectories.seed,
        "pictures": lambda: [svg_of(trajectories, narrow=narrow) for narrow in (False, True)],
        "rows": lambda: rows_of(trajectories),
        "several_starts": lambda: len(trajectories.starts) > 1,
        "minima": lambda: ", ".join(map(_point, surface.minima)),
        "starts": lambda: ", ".join(map(_point, trajectories.starts)),
        "tolerance": lambda: format_number(TOLERANCE * surface.diagonal, 2),
        "chosen": lambda: any(paths.tried for paths in trajectories.optimizers),
        "known": lambda: surface.best is not None,
        "command": lambda: command or f"thalweg.show({surface.name!r}, {names!r}, steps={trajectories.steps})",
        "version": lambda: thalweg.__version__,
    }


def rows_of(trajectories: Trajectories) -> list[dict[str, Any]]:
    """Return a row of the table for each path, the lowest first: name, learning rate, end and steps to the minimum.

    Args:
        trajectories: The paths.
    """
    rows = [
        {
            "name": paths.name,
            "colour": place,
            "lr": format_number(paths.lr),
            "choice": _choice(paths),
            "start": _point(start),
            "end": _NONE if trajectory.diverged_at is not None else _point(trajectory.points[-1]),
            "gap": _result(trajectories, trajectory),
            "reached": _NONE if trajectory.reached_at is None else str(trajectory.reached_at),
        }
        for place, paths in enumerate(trajectories.optimizers)
        for start, trajectory in zip(trajectories.starts, paths.trajectories, strict=True)
    ]
    heights = [trajectory.final_height for paths in trajectories.optimizers for trajectory in paths.trajectories]
    return [rows[place] for place in sorted(range(len(rows)), key=heights.__getitem__)]


def _choice(paths: OptimizerPaths) -> str:
    if not paths.tried:
        return "not chosen"
    low, high = (format_number(value) for value in (paths.tried[0], paths.tried[-1]))
    return f"best of {len(paths.tried)} from {low} to {high}"


def _result(trajectories: Trajectories, trajectory: Trajectory) -> str:
    if trajectory.diverged_at is not None:
        return f"diverged at step {trajectory.diverged_at}"
    return format_number(trajectories.gap(trajectory.final_height))


def _point(point: tuple[float, float]) -> str:
    return f"({format_number(point[0])}, {format_number(point[1])})"
