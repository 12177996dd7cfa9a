"""`thalweg compare`: the head-to-head, or the tuning of one; with `--suite`, on several tasks (`cli.suite`)."""

import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console
from thalweg.cli.suite import compare_suite

if TYPE_CHECKING:
    from thalweg.comparison import Comparison
    from thalweg.comparison.results.summary import Estimate


@click.command(epilog=example("thalweg compare linear-regression --with gd,adam --budget 4trials"))
@click.argument("task", required=False, metavar="TASK")
@click.option(
    "--suite",
    is_flag=True,
    help="TASK is a comma-separated list, and the budget is for each task. "
    "[default tasks: logistic-regression,breast-cancer,diabetes,digits,patches]",
)
@click.option(
    "--with",
    "contenders",
    metavar="NAMES",
    help="Contenders, comma-separated; `thalweg list` names them. `adam:beta2=0.95` pins a setting, "
    "`adam:lr=1e-4..1e-2` says where to search, `torch.optim:NAdam` or `file.py:make` is an optimizer from elsewhere. "
    "One alone is tuned. [default: gd,sgd,momentum,adagrad,rmsprop,adam,adamw; gd only where a full batch is at hand]",
)
@click.option(
    "--budget",
    help="A time for the whole comparison (90s, 2m, 1h); or, for each contender, search trials (16trials), those of "
    "several studies (8x24trials), steps (100000steps) or passes over the data (500passes). Under 10 trials the "
    "learning rate alone is searched, under 25 the momentum too. [default: 2m, more where that buys no comparison]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every random thing.")
@click.option(
    "--schedule",
    type=click.Choice(["linear", "cosine", "constant", "warm-up-linear", "warm-up-cosine", "none"]),
    default="linear",
    show_default=True,
    help="Of the learning rate over each training; a contender may have its own: adam:schedule=cosine.",
)
@click.option(
    "--prune", is_flag=True, help="Give up settings that do badly early; the contender tries more of them instead."
)
@click.option("--refine", is_flag=True, help="Let a model propose the second half of each contender's settings.")
@click.option("--target", type=float, help="A validation loss: how soon it is met is what counts.")
@click.option("--control", is_flag=True, help="The first contender takes part twice, which shows the noise floor.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that train. [default: as many as pay, measured]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the store and the report. [default: runs/TASK; of a suite: runs/suite, with a folder in it for "
    "each task]",
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
    schedule: str,
    workers: int | None,
    prune: bool,
    refine: bool,
    target: float | None,
    control: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find the best optimizer for TASK: each contender tuned in its own space, with the same budget.

    TASK is a built-in name (`thalweg tasks` lists them) or path/to/file.py:name, the name of a thalweg.Task or of a
    function train(make_optimizer, report). With --suite there may be several, or none for a few quick ones; a task that
    fails is said, does not lose the others, and makes the exit code 2.

    Every result is stored as soon as it exists. The same command again goes on where the last one ended, and shows
    the verdict at once where nothing is left to do.
    """
    from thalweg import comparison
    from thalweg.cli.progress import shown

    names = None if contenders is None else comparison.split_list(contenders)
    asked: dict[str, Any] = {
        "budget": budget,
        "seed": seed,
        "schedule": schedule,
        "workers": workers,
        "prune": prune,
        "refine": refine,
        "target": target,
        "control": control,
    }
    if suite:
        compare_suite(task, names, out or Path("runs") / "suite", as_json=as_json, **asked)
        return
    if task is None:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    out = out or Path("runs") / comparison.folder_name(task)
    heard: list[comparison.Progress] = []
    # What a task prints is talk: stdout is for the result.
    with shown() as show, contextlib.redirect_stdout(sys.stderr):

        def watch(progress: comparison.Progress) -> None:
            heard.append(progress)
            show(progress)

        found = comparison.compare(task, names, store=out / "store.sqlite", watch=watch, **asked)
    if not heard:
        click.echo(f"finished at {found.record.finished}: shown from {out / 'store.sqlite'}, nothing was run", err=True)
    page = found.report(out / "report.html")
    if as_json:
        print_json(found.to_json() | {"report": str(page)})
    else:
        print_verdict(found)
        click.echo(f"Report: {page}")


def print_verdict(found: "Comparison") -> None:
    """The table, the verdict and the line to paste."""
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{found.record.workload.name}: {found.metric}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("contender")
    advised = any(one.recommended is not None for one in found.contenders)
    columns = ["value", "95 % interval", "worse by", "untuned", "training loss", "lost", "state"]
    if advised:
        columns.insert(4, "starting point")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for one in found.contenders:
        style = "bold" if one.name == found.verdict.recommended else None
        state = f"{4 * one.state_numbers} B/param" if one.state_bytes is None else f"{one.state_bytes:,} B"
        cells = (
            one.name,
            _cell(one.value),
            f"{one.value.low:.4g} – {one.value.high:.4g}" if math.isfinite(one.value.high) else "–",
            "–" if one is found.contenders[0] else f"{one.worse_by:z.1%}",
            _cell(one.untuned),
            *(["–" if one.recommended is None else _cell(one.recommended)] if advised else []),
            f"{one.train_loss:.4g}" if math.isfinite(one.train_loss) else "–",
            f"{one.lost}/{len(one.seeds)}",
            state,
            " ".join(f"{name}={one.settings[name]:g}" for name in one.searched),
        )
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console = stdout_console()
    console.print(table)
    measured = [one for one in found.contenders if one.trials["value"]]
    if measured and len(found.contenders) > 1:
        name, seeds = measured[0].name, measured[0].value.count
        console.print(f"Worse by: over the race's seeds. The value of {name}: over {seeds} others, unused before.")
    if found.plan.optimum is not None:
        console.print(f"The least training loss there is: {found.plan.optimum:.7g}")
    console.print()
    console.print(found.verdict.text)
    console.print(found.verdict.ranking_text)
    for caution in [*found.half_sample_check, *found.cautions]:
        console.print(caution)
    if found.code:
        click.echo(f"\n{found.code}\n")  # never wrapped: it is to be copied


def _cell(value: "Estimate") -> str:
    """A value as the table shows it; a dash where nothing was measured."""
    return f"{value.bound}{value.mean:.4g}" if math.isfinite(value.mean) else "–"
