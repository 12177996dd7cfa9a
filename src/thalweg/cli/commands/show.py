"""The command ``thalweg show``: draw the paths of optimizers over a surface."""

from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import echo, end_with, example, joined, json_option, naming_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.trajectories import Surface, Trajectories

_DEFAULT = "gd,momentum,rmsprop,adam,muon"


class _Start(click.ParamType[tuple[float, float]]):
    """A point, written ``X,Y``."""

    name = "X,Y"

    def convert(
        self, value: str | tuple[float, float], param: click.Parameter | None, context: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            x, y = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} must read like -1.2,1.", param, context)
        return x, y


@click.command(
    short_help="Draw the paths of optimizers over a surface.",
    epilog=example("thalweg show rosenbrock --with sgd,adam,muon"),
)
@click.argument("surface")
@click.option(
    "--with",
    "optimizers",
    multiple=True,
    default=[_DEFAULT],
    show_default=True,
    callback=joined,
    help="Optimizers, comma-separated, at most 8; can be repeated.",
)
@click.option("--steps", type=int, help="Number of steps, 1 to 5000. [default: that of the surface]")
@click.option(
    "--start", "starts", type=_Start(), multiple=True, help="First point; several options draw several paths."
)
@click.option("--lr", type=float, help="Learning rate of all optimizers. [default: the best of 19 for each]")
@click.option("--noise", type=float, default=0.0, show_default=True, help="Standard deviation of gradient noise.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--to",
    "targets",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File to write: .html, .png, .svg or .gif (animated). Give it several times for several files. "
    "[default: runs/SURFACE.html]",
)
@click.option("--width", type=int, help="Width of an image in pixels, 300 to 4000. [default: 1600, SVG and GIF 960]")
@click.option("--overwrite", is_flag=True, help="Replace a file that thalweg did not make.")
@json_option
@click.pass_context
def show(
    context: click.Context,
    surface: str,
    optimizers: str,
    steps: int | None,
    starts: tuple[tuple[float, float], ...],
    lr: float | None,
    noise: float,
    seed: int,
    targets: tuple[Path, ...],
    width: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw the paths of optimizers over SURFACE, a function of two numbers.

    SURFACE is rosenbrock, quadratic, himmelblau, beale, rastrigin, ackley or saddle; or path/to/file.py:name, a
    function of points (..., 2) that returns heights (...).

    Each optimizer takes its own steps from the same start, at the learning rate whose path ends lowest unless you set
    one: adam:lr=0.1. A page plays the paths; it works without a network.
    """
    from thalweg.parts import Parts
    from thalweg.report.pictures import check_target, write_image, write_picture_page
    from thalweg.trajectories import find_surface

    chosen_surface = find_surface(surface)
    targets = targets or (Path("runs") / f"{chosen_surface.name}.html",)
    _check_suffixes(targets)
    with naming_option("--to"):
        for target in targets:
            check_target(target, width=width, overwrite=overwrite)
    trajectories = _trace(chosen_surface, optimizers, steps=steps, start=starts or None, lr=lr, noise=noise, seed=seed)
    parts = Parts()

    @naming_option("--to")
    def write(target: Path) -> Path:
        if target.suffix.lower() == ".html":
            command = _command(context)
            return write_picture_page(trajectories, target, overwrite=overwrite, command=command, parts=parts)
        return write_image(trajectories, target, width=width, overwrite=overwrite)

    written = [parts.make(f"the file {target}", partial(write, target), None) for target in targets]
    files = [file for file in written if file is not None]
    if as_json:
        print_json(trajectories.to_json() | {"files": list(map(str, files))})
    else:
        _print(trajectories, files)
    end_with(parts)


def _trace(surface: "Surface", optimizers: str, **options: Any) -> "Trajectories":
    """Trace, with a progress display on stderr."""
    from thalweg.comparison import Progress
    from thalweg.comparison.presentation.progress_display import progress_display
    from thalweg.trajectories import trace

    start_s = monotonic()
    with progress_display() as show_progress:

        def report(name: str, done: int, total: int) -> None:
            show_progress(Progress("tracing", name, share=done / total, elapsed_s=monotonic() - start_s))

        return trace(surface, optimizers, progress=report, **options)


def _check_suffixes(targets: tuple[Path, ...]) -> None:
    from thalweg.report.pictures import SUFFIXES

    for target in targets:
        if target.suffix.lower() not in SUFFIXES:
            raise click.BadParameter(
                f"the file must end in {', '.join(SUFFIXES)}, got {str(target)!r}.", param_hint="--to"
            )


def _command(context: click.Context) -> str:
    """Return the command line, without what does not change the picture."""
    from thalweg.comparison.results.environment import joined_command

    values = context.params
    words = ["thalweg", "show", values["surface"], "--with", values["optimizers"]]
    for name in ("steps", "lr", "noise", "seed"):
        if values[name]:
            words += [f"--{name}", _exact(values[name])]
    for x, y in values["starts"]:
        words += ["--start", f"{_exact(x)},{_exact(y)}"]
    return joined_command(words)


def _exact(number: float) -> str:
    """Return the shortest text that means this number and no other."""
    return repr(number).removesuffix(".0")


def _print(trajectories: "Trajectories", files: list[Path]) -> None:
    """Print a table of the paths, the lowest first, and the files."""
    from rich.table import Table

    from thalweg.report.pictures.figure import notes_of, title_of
    from thalweg.report.pictures.page import rows_of

    known = trajectories.surface.best is not None
    table = Table(box=None, pad_edge=False)
    columns = {
        "optimizer": "name",
        "start": "start",
        "learning rate": "lr",
        "ends above the minimum by" if known else "ends at height": "gap",
        "end": "end",
        "steps to the minimum": "reached",
    }
    if len(trajectories.starts) == 1:
        del columns["start"]
    for title in columns:
        table.add_column(title, justify="left" if title == "optimizer" else "right", overflow="fold")
    for row in rows_of(trajectories):
        table.add_row(*(row[key] for key in columns.values()))
    console = stdout_console()
    console.print(f"{title_of(trajectories)}: {trajectories.surface.formula or trajectories.surface.about}")
    console.print(table)
    for note in notes_of(trajectories):
        console.print(note)
    for file in files:
        echo(f"Picture: {file}")
