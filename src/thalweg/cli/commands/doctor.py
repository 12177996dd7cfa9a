"""The command ``thalweg doctor``: name the cause of a training that fails, and prove a cure."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.interrupts import DIAGNOSIS_ENDED, sigterm_interrupts
from thalweg.cli.output import echo, end_with, example, json_option, naming_option, show_result, stdout_console
from thalweg.errors import DiagnosisInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalweg.diagnosis.diagnosis import Diagnosis

SICK = 3  # the exit code of a diagnosis of a training that is not healthy
UNKNOWN = 2  # the exit code if the budget ended before that was known


@click.command(
    short_help="Name the cause of a failed training, and prove a cure.",
    epilog="\b\nExit codes of this command:\n"
    "  0    the training is healthy\n"
    f"  {SICK}    it is not; the cause, and a cure that was tried, are printed\n"
    f"  {UNKNOWN}    the budget ended before this was known\n\n"
    + example("thalweg doctor breast-cancer --with adam:lr=0.01 --steps 40 --budget 10s"),
)
@click.argument("training", metavar="TRAINING")
@click.option(
    "--with",
    "contender",
    metavar="NAME",
    help="For a task: its optimizer, as `thalweg compare` takes it, such as adam:lr=0.01. The learning rate is "
    "constant. [default: adam]",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="Fresh seeds on which the cure is verified, beside the training as it is.",
)
@click.option("--budget", default="60s", show_default=True, help="Time for the whole diagnosis: 30s, 5m.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Steps of each run. Enough for the training to work if it were healthy. [default: 250, or those of the task "
    "if they are fewer]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("doctor.html"),
    show_default=True,
    help="File for the page with the evidence as pictures.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no page of thalweg.")
@json_option
@sigterm_interrupts(DIAGNOSIS_ENDED)
def doctor(
    training: str,
    contender: str | None,
    seeds: int,
    budget: str,
    steps: int | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find why TRAINING fails, and the smallest change that cures it.

    TRAINING is path/to/file.py:training, the name of a function training(seed) that returns a thalweg.Training, or of a
    thalweg.Task; or the name of a built-in task (see `thalweg tasks`).

    The training is inspected, watched while it runs, and run again with one thing changed at a time. A cure is
    verified on fresh seeds. Nothing of the training is changed. Ctrl-C shows what is known by then.
    """
    from thalweg.report.files import check_page

    with naming_option("--out"):  # before a diagnosis that may take minutes
        check_page(out, overwrite=overwrite)
    command = _command_of(training, contender, seeds, budget, steps, out)
    try:
        diagnosis = _run(training, contender, seeds, budget, steps)
    except DiagnosisInterrupted as interrupt:
        if interrupt.result is not None:
            _show(interrupt.result, out, command, overwrite=overwrite, as_json=as_json)
        raise
    except KeyboardInterrupt:  # before the diagnosis began
        raise DiagnosisInterrupted() from None
    _show(diagnosis, out, command, overwrite=overwrite, as_json=as_json)
    if diagnosis.healthy is None:
        echo("The budget ended before this was known: pass a larger --budget, such as 5m.", err=True)
        click.get_current_context().exit(UNKNOWN)
    if not diagnosis.healthy:
        click.get_current_context().exit(SICK)


def _command_of(training: str, contender: str | None, seeds: int, budget: str, steps: int | None, out: Path) -> str:
    """Return the command line that makes the same diagnosis again."""
    from thalweg.comparison.results.environment import joined_command

    options = {"--with": contender, "--seeds": seeds, "--budget": budget, "--steps": steps, "--out": out}
    words = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    return joined_command(["thalweg", "doctor", training, *words])


def _run(training: str, contender: str | None, seeds: int, budget: str, steps: int | None) -> "Diagnosis":
    """Diagnose, with a progress display on stderr."""
    from thalweg.comparison import Progress
    from thalweg.comparison.presentation.progress_display import progress_display
    from thalweg.diagnosis.diagnose import DiagnosisProgress, diagnose

    # Redirect output of the training to stderr; stdout carries results.
    with progress_display() as show, contextlib.redirect_stdout(sys.stderr):

        def report(event: DiagnosisProgress) -> None:
            show(Progress(event.stage, event.detail, done=event.runs, elapsed_s=event.seconds))

        function, name, steps = _function_of(training, contender, steps)
        return diagnose(function, seeds=seeds, budget=budget, steps=steps, progress=report, name=name)


def _function_of(
    training: str, contender: str | None, steps: int | None
) -> "tuple[Callable[[int], Any], str, int | None]":
    """Return the function that makes trainings, its name, and the steps of a run."""
    from thalweg.comparison.diagnosing import function_of
    from thalweg.tasks import Task
    from thalweg.tasks.catalogue import load_training

    value = load_training(training)
    if contender is not None and not isinstance(value, Task):
        raise click.UsageError("--with is for a task. A training(seed) function makes its own optimizer.")
    function, name, steps = function_of(value, contender, steps)
    path, _, own = training.rpartition(":")
    return function, name or f"{Path(path).name}:{own}", steps


def _show(diagnosis: "Diagnosis", path: Path, command: str, *, overwrite: bool, as_json: bool) -> None:
    """Print the summary, and write the page."""
    from thalweg.parts import Parts
    from thalweg.report import write_diagnosis

    parts = Parts()

    @naming_option("--out")
    def write() -> Path:
        return write_diagnosis(diagnosis, path, overwrite=overwrite, command=command, parts=parts)

    show_result(
        parts,
        "page",
        write,
        lambda: parts.make("the summary", lambda: print_diagnosis(diagnosis), None),
        lambda: diagnosis.to_json() | {"command": command},
        as_json=as_json,
    )
    end_with(parts)


def print_diagnosis(diagnosis: "Diagnosis") -> None:
    """Print the summary of a diagnosis in the width of the terminal."""
    from rich.text import Text

    from thalweg.diagnosis.presentation import MAX_WIDTH, summary_lines

    console = stdout_console()
    for line in summary_lines(diagnosis, min(console.width, MAX_WIDTH)):
        # Code is not folded, so that it can be copied.
        console.print(Text(line.text, style="bold" if line.style == "bold" else ""), soft_wrap=True)
