"""`thalweg compare`: the head-to-head, or the tuning of one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import example, json_option, print_json

if TYPE_CHECKING:
    from thalweg.comparison import Comparison


@click.command(epilog=example("thalweg compare linear-regression --with gd,adam --budget 4trials"))
@click.argument("task")
@click.option(
    "--with",
    "contenders",
    metavar="NAMES",
    help="Contenders, comma-separated; `thalweg list` names them. `adam:beta2=0.95` pins a setting. "
    "One alone is tuned. [default: gd,sgd,momentum,adagrad,rmsprop,adam,adamw]",
)
@click.option(
    "--budget",
    default="2m",
    show_default=True,
    help="A time for the whole comparison (90s, 2m, 1h), or search trials for each contender (16trials).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every random thing.")
@click.option(
    "--schedule",
    type=click.Choice(["linear", "cosine", "constant"]),
    default="linear",
    show_default=True,
    help="Of the learning rate over each training.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the store and the report. [default: runs/TASK]",
)
@json_option
def compare(
    task: str, contenders: str | None, budget: str, seed: int, schedule: str, out: Path | None, as_json: bool
) -> None:
    """Find the best optimizer for TASK: each contender tuned in its own space, with the same budget.

    TASK is a built-in name (`thalweg tasks` lists them) or path/to/file.py:name, the name of a thalweg.Task or of a
    function train(make_optimizer, report).

    Every result is stored as soon as it exists. The same command again goes on where the last one ended, and shows
    the verdict at once where nothing is left to do.
    """
    from thalweg import comparison
    from thalweg.cli.progress import shown

    out = out or Path("runs") / folder_name(task)
    with shown() as watch:
        found = comparison.compare(
            task,
            comparison.DEFAULT if contenders is None else comparison.split_list(contenders),
            budget=budget,
            seed=seed,
            schedule=schedule,
            store=out / "store.sqlite",
            watch=watch,
        )
    page = found.report(out / "report.html")
    if as_json:
        print_json(found.to_json() | {"report": str(page)})
    else:
        print_verdict(found)
        click.echo(f"Report: {page}")


def folder_name(task: str) -> str:
    """A name for the folder of a task's runs: `digits`, `quadratic-condition-10`, `mine-task`."""
    head, _, tail = task.rpartition(".py:")
    name = f"{Path(head).name}-{tail}" if head else task
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)


def print_verdict(found: "Comparison") -> None:
    """The table, the verdict and the line to paste."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{found.header.task['name']}: {found.metric}", title_justify="left", box=None, pad_edge=False)
    table.add_column("contender")
    for column in ("median", "95 % interval", "training loss", "diverged", "state"):
        table.add_column(column, justify="right")
    table.add_column("settings", overflow="fold")
    for one in found.contenders:
        style = "bold" if one.name == found.verdict.recommended else None
        settings = " ".join(f"{name}={value:g}" for name, value in one.settings.items())
        interval = f"{one.value.low:.4g} – {one.value.high:.4g}"
        diverged = f"{one.diverged}/{len(one.seeds)}"
        cells = (f"{one.value.median:.4g}", interval, f"{one.train_loss:.4g}", diverged, f"{one.state_bytes:,} B")
        table.add_row(one.name, *cells, settings, style=style)
    Console(highlight=False).print(table)
    if found.plan.optimum is not None:
        console.print(f"The least training loss there is: {found.plan.optimum:.7g}")
    console.print()
    console.print(found.verdict.text, markup=False)
    for one in found.contenders:
        if one.at_edge:
            edge = " and ".join(one.at_edge)
            console.print(f"Note: the best {edge} of {one.name} lies at an end of the range searched.", markup=False)
    if found.code:
        console.print()
        console.print(found.code, markup=False)
        console.print()
