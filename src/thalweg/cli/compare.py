"""The command ``thalweg compare``: compare optimizers on a task, or tune one; with ``--suite``, on several tasks."""

import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console
from thalweg.cli.suite import compare_suite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from thalweg.comparison import Comparison
    from thalweg.comparison.results.summary import Estimate, Summary

# The columns that a narrow terminal shows in a second table.
_SECOND_PART = ("untuned", "starting point", "your setting", "training loss", "settings")
_MIN_SETTINGS_WIDTH = 20

# A paragraph that starts with \b is not wrapped by click.
WORDS = """\b
Words:
  contender  an optimizer with its fixed settings and search ranges
  trial      one training at one setting from one random seed
  study      one complete tuning of a contender: search, choice, evaluation
  race       trainings of all contenders at their chosen settings, from fresh
             seeds, until they are told apart or the seeds run out
  lost run   a training that diverged, failed or missed its target"""


@click.command(
    short_help="Compare optimizers on a task, or tune one.",
    epilog=f"{WORDS}\n\n{example('thalweg compare linear-regression --with gd,adam --budget 4trials')}",
)
@click.argument("task", required=False, metavar="TASK")
@click.option(
    "--suite",
    is_flag=True,
    help="Compare on several tasks: TASK is a comma-separated list, or is left out. --budget is for each task. "
    "[default tasks: logistic-regression,breast-cancer,diabetes,digits,patches]",
)
@click.option(
    "--with",
    "contenders",
    metavar="NAMES",
    help="Contenders, comma-separated. `thalweg list` shows their names. `adam:beta2=0.95` fixes a setting, "
    "`adam:lr=1e-4..1e-2` sets its search range. `torch.optim:NAdam` or `file.py:make` is an optimizer of another "
    "library, or your own. A single contender is tuned. "
    "[default: gd,sgd,momentum,adagrad,rmsprop,adam,adamw; gd only if the task has full batches]",
)
@click.option(
    "--budget",
    help="A time for the whole comparison: 90s, 2m, 1h. Or for each contender: trials (16trials), trials in several "
    "studies (8x24trials), optimizer steps (100000steps) or passes over the data (500passes). A study with less than "
    "10 trials searches the learning rate only, with less than 25 also the momentum. "
    "[default: 2m, or as long as the smallest comparison takes]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option(
    "--schedule",
    metavar="NAME",
    help="Learning rate schedule of each training: linear, cosine, warm-up-linear, warm-up-cosine, onecycle (torch's, "
    "without a cycle of the momentum), step:SHARE:FACTOR, constant or none. step:0.3:0.1 takes a tenth after each 30 % "
    "of the training. A contender can have its own: adam:schedule=cosine. A training function takes it by "
    "make_optimizer(model, scheduler=True, steps=N). "
    "[default: linear; a training function's own]",
)
@click.option(
    "--start",
    multiple=True,
    metavar="SETTINGS",
    help="A setting of yours that the search tries first, such as adamw:lr=3e-4,weight_decay=0.1. Can be repeated.",
)
@click.option(
    "--set",
    "fixed",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fix a number that the task declares to be tuned (thalweg.choice, range, log_range). Can be repeated.",
)
@click.option(
    "--prune", is_flag=True, help="Stop bad settings early, and let the same contender try more settings instead."
)
@click.option(
    "--refine", is_flag=True, help="Let a model propose the second half of each study's settings. Needs optuna."
)
@click.option(
    "--target",
    type=float,
    help="A validation loss or metric. Contenders are then compared by how soon a training reaches it.",
)
@click.option(
    "--scale",
    type=click.Choice(["log", "linear"]),
    help="Compare values by their ratios (log) or their differences (linear). Values of zero or below are always "
    "compared by differences. [default: log for losses, linear for metrics and for values that are maximized]",
)
@click.option(
    "--margin",
    metavar="MARGIN",
    help="Difference that is too small to matter: a share of the value (3%) or a difference in its unit (0.002). "
    "[default: 3%; 0.003 for accuracies and other values between 0 and 1 that are compared by differences]",
)
@click.option(
    "--prefer",
    type=click.Choice(["best", "cheap"]),
    default="best",
    show_default=True,
    help="cheap: recommend the cheapest contender within the margin, even if it is shown to be worse by less.",
)
@click.option(
    "--result",
    type=click.Choice(["last", "best"]),
    help="Measurement of a training that counts: the last one, or the one with the best validation. "
    "[default: that of the task, else last]",
)
@click.option("--control", is_flag=True, help="Enter the first contender twice. The difference shows the noise floor.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of processes that train. [default: the fastest number, measured]",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Device that trains: cpu, cuda (all GPUs, one for each worker), cuda:1, xpu, mps, or auto: an accelerator if "
    "there is one and it is measured to be faster on this task. [default: that of the task, else auto]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the store and the report. [default: runs/TASK, or runs/suite with a folder for each task]",
)
@json_option
@click.pass_context
def compare(
    context: click.Context,
    task: str | None,
    suite: bool,
    contenders: str | None,
    budget: str | None,
    seed: int,
    schedule: str | None,
    start: tuple[str, ...],
    fixed: tuple[str, ...],
    workers: int | None,
    prune: bool,
    refine: bool,
    target: float | None,
    scale: str | None,
    margin: str | None,
    prefer: str,
    result: str | None,
    control: bool,
    device: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find the best optimizer for TASK. Each contender is tuned in its own search space, with the same budget.

    TASK is a built-in name (see `thalweg tasks`) or path/to/file.py:name, the name of a thalweg.Task or of a function
    train(make_optimizer, report).

    Every finished training is stored. If interrupted, rerun the same command to resume. A finished comparison is
    shown again without any training.

    With --suite, a task that fails does not stop the other tasks. Its error is printed, and the exit code is 2.
    """
    from thalweg import comparison

    names = None if contenders is None else comparison.split_list(contenders)
    options: dict[str, Any] = {
        "budget": budget,
        "seed": seed,
        "schedule": schedule,
        "workers": workers,
        "prune": prune,
        "refine": refine,
        "target": target,
        "scale": scale,
        "margin": margin,
        "prefer": prefer,
        "result": result,
        "control": control,
        "device": device,
    }
    if suite and (start or fixed):
        raise click.UsageError("--start and --set are for one task. Leave out --suite.", context)
    if suite:
        compare_suite(task, names, out or Path("runs") / "suite", as_json=as_json, **options)
        return
    if task is None:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    out = out or Path("runs") / comparison.folder_name(task)
    options |= {"start": list(start), "fixed": dict(map(_parse_number, fixed))}
    finished = _run(task, names, out / "store.sqlite", options)
    page = finished.report(out / "report.html")
    if as_json:
        print_json(finished.to_json() | {"report": str(page)})
    else:
        print_comparison(finished)
        click.echo(f"Report: {page}")


def _parse_number(text: str) -> tuple[str, float]:
    """Parse ``batch_size=64``."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} must read like batch_size=64.", param_hint="--set") from None


def _run(task: str, names: list[str] | None, store: Path, options: dict[str, Any]) -> "Comparison":
    """Run or resume a comparison, with a progress display on stderr."""
    from thalweg import comparison
    from thalweg.cli.progress import progress_display

    was_run = False
    # Redirect task output to stderr; stdout carries results.
    with progress_display() as show, contextlib.redirect_stdout(sys.stderr):

        def watch(progress: comparison.Progress) -> None:
            nonlocal was_run
            was_run = True
            show(progress)

        result = comparison.compare(task, names, store=store, watch=watch, **options)
    if not was_run:
        click.echo(
            f"already finished at {result.record.finished}. Results are from {store}; nothing was run.", err=True
        )
    return result


def print_comparison(comparison: "Comparison") -> None:
    """Print the table of contenders, the verdict with its cautions, and the line of code to paste."""
    from rich.text import Text

    console = stdout_console()
    console.print(Text(f"{comparison.record.workload.name}: {comparison.metric}", style="italic"))
    if comparison.device:
        console.print(Text(comparison.device, style="italic"))
    columns = _columns(comparison)
    bold_row = next(
        (
            index
            for index, summary in enumerate(comparison.contenders)
            if summary.name == comparison.verdict.recommended
        ),
        None,
    )
    if _width(columns) <= console.width:
        console.print(_table(columns, bold_row))
    else:  # in two parts, so that a narrow terminal cuts nothing off
        console.print(_table({name: columns[name] for name in columns if name not in _SECOND_PART}, bold_row))
        console.print()
        second = {name: columns[name] for name in columns if name == "contender" or name in _SECOND_PART}
        console.print(_table(second, bold_row))
    for note in _table_notes(comparison):
        console.print(note)
    console.print()
    console.print(comparison.verdict.text)
    console.print(comparison.verdict.ranking_text)
    for sentence in [*comparison.half_sample_check, *comparison.cautions]:
        console.print(sentence)
    if comparison.code:
        click.echo(f"\n{comparison.code}\n")  # click does not wrap it, so it can be copied


def _columns(comparison: "Comparison") -> dict[str, list[str]]:
    """Return the columns of the table by heading, with a cell for each contender."""
    summaries = comparison.contenders
    values = [summary.value for summary in summaries]
    columns = {
        "contender": [summary.name for summary in summaries],
        "value": [_format_estimate(value) for value in values],
        "95 % interval": [
            f"{value.low:.4g} – {value.high:.4g}" if math.isfinite(value.worst_end) else "–" for value in values
        ],
        "worse by": ["–", *(summary.worse_by_text for summary in summaries[1:])],
        "untuned": [_format_estimate(summary.untuned) for summary in summaries],
        "starting point": [_format_estimate(summary.recommended) for summary in summaries],
        "your setting": [_format_estimate(summary.yours) for summary in summaries],
        "training loss": [
            f"{summary.train_loss:.4g}" if math.isfinite(summary.train_loss) else "–" for summary in summaries
        ],
        "lost": [f"{summary.lost}/{len(summary.seeds)}" for summary in summaries],
        "state": [_format_state(summary) for summary in summaries],
        "settings": [
            " ".join(f"{name}={summary.settings[name]:g}" for name in summary.searched) for summary in summaries
        ],
    }
    if all(summary.recommended is None for summary in summaries):
        del columns["starting point"]
    if all(summary.yours is None for summary in summaries):
        del columns["your setting"]
    return columns


def _width(columns: "Mapping[str, Sequence[str]]") -> int:
    """Return the width that a table needs, with a gap of two characters between columns. Settings can be folded."""
    widths = [
        _MIN_SETTINGS_WIDTH if name == "settings" else max(map(len, (name, *cells))) for name, cells in columns.items()
    ]
    return sum(widths) + 2 * (len(widths) - 1)


def _table(columns: "Mapping[str, Sequence[str]]", bold_row: int | None) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in columns:
        if name == "contender":
            table.add_column(name)
        elif name == "settings":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for index, cells in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*(Text(cell) for cell in cells), style="bold" if index == bold_row else None)
    return table


def _table_notes(comparison: "Comparison") -> list[str]:
    """Return the sentences below the table."""
    notes = []
    summaries = comparison.contenders
    with_fresh_value = next((summary for summary in summaries if summary.trials["value"]), None)
    if with_fresh_value is not None and len(summaries) > 1:
        notes.append(
            f"Worse by: measured on the seeds of the race. Value of {with_fresh_value.name}: measured on "
            f"{with_fresh_value.value.count} further seeds."
        )
    if comparison.plan.optimum is not None:
        notes.append(f"Lowest possible training loss: {comparison.plan.optimum:.7g}")
    return notes


def _format_state(summary: "Summary") -> str:
    """Format the memory of an optimizer: of the task's model, or of a parameter if the model is not known."""
    return f"{4 * summary.state_numbers} B/param" if summary.state_bytes is None else f"{summary.state_bytes:,} B"


def _format_estimate(estimate: "Estimate | None") -> str:
    """Format a value for the table; a dash if there is none."""
    if estimate is None or not math.isfinite(estimate.mean):
        return "–"
    return f"{estimate.bound}{estimate.mean:.4g}"
