"""The command ``thalweg compare``: compare optimizers on a task, or tune one; with ``--suite``, on several tasks."""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.commands.suite import compare_suite
from thalweg.cli.interrupts import RESUME, sigterm_interrupts
from thalweg.cli.live import live_report
from thalweg.cli.output import echo, end_with, example, joined, json_option, print_table, show_result, stdout_console
from thalweg.errors import ComparisonInterrupted, printable

if TYPE_CHECKING:
    from thalweg.comparison import Comparison

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
    multiple=True,
    callback=joined,
    help="Contenders, comma-separated; can be repeated. `thalweg list` shows their names. `adam:beta2=0.95` fixes a "
    "setting, `adam:lr=1e-4..1e-2` sets its search range. `torch.optim:NAdam` or `file.py:make` is an optimizer of "
    "another library, or your own. A single contender is tuned. "
    "[default: gd,sgd,momentum,adagrad,rmsprop,adam,adamw; gd only if the task has full batches]",
)
@click.option(
    "--budget",
    help="A time for the whole comparison, which is used and kept: 90s, 2m, 1h. Or for each contender: trainings "
    "(16trials), trials of several studies that rank the optimizers (8x24trials), optimizer steps (100000steps) or "
    "passes over the data (500passes). A study with less than 10 trials searches the learning rate only, with less "
    "than 25 also the momentum. [default: 2m]",
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
    help="A setting of yours that the search tries first, such as adamw:lr=3e-4,weight_decay=0.1, inside of a range "
    "that --with gives. Can be repeated. With --suite it is for all tasks.",
)
@click.option(
    "--set",
    "fixed",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fix an argument that the task declares to be tuned (thalweg.choice, range, log_range). Can be repeated. With "
    "--suite it is for all tasks that declare it; TASK:NAME=VALUE is for one of them.",
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
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="A training that takes longer has failed. [default: a minute and 20 times the usual duration]",
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
@click.option(
    "--live",
    is_flag=True,
    help="Serve the report on this machine while the comparison or the suite runs. Its address is printed, and it "
    "renews itself.",
)
@json_option
@click.pass_context
@sigterm_interrupts(RESUME)
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
    timeout: float | None,
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
    live: bool,
    as_json: bool,
) -> None:
    """Find the best optimizer and its setting for TASK. Each contender is tuned in its own search space.

    The search for the setting to use is one for all contenders: those that do better get more trainings. A ranking of
    the optimizers comes from studies (--budget 8x24trials), which give each the same number of settings and steps.

    TASK is a built-in name (see `thalweg tasks`) or path/to/file.py:name, the name of a thalweg.Task or of a function
    train(make_optimizer, report).

    Every finished training is stored. Ctrl-C shows the best answer so far; rerun the same command to resume. A
    finished comparison is shown again without any training.

    The exit code is 2 if no contender has a value: no training has ended, or all are lost. With --suite, such a task
    or one that fails does not stop the other tasks. Its error is printed, and the exit code is 2.
    """
    from thalweg import comparison

    names = None if contenders is None else comparison.split_list(contenders)
    options: dict[str, Any] = {
        "budget": budget,
        "seed": seed,
        "schedule": schedule,
        "workers": workers,
        "timeout": timeout,
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
    options |= {"start": list(start), "fixed": dict(map(_parse_fixed, fixed))}
    if suite:
        compare_suite(task, names, out or Path("runs") / "suite", as_json=as_json, live=live, **options)
        return
    if task is None:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    out = out or Path("runs") / comparison.folder_name(task)
    try:
        finished = _run(task, names, out / "store.sqlite", options, live=live)
    except ComparisonInterrupted as interrupt:
        if interrupt.result is not None:
            _show(interrupt.result, out / "report.html", as_json=as_json)
        raise
    _show(finished, out / "report.html", as_json=as_json)
    end_with(finished.parts)


def _show(result: "Comparison", path: Path, *, as_json: bool) -> None:
    """Print the results, and write the report."""
    show_result(
        result.parts,
        "report",
        lambda: result.report(path),
        lambda: print_comparison(result),
        result.to_json,
        as_json=as_json,
    )


def _parse_fixed(text: str) -> tuple[str, str]:
    """Parse ``batch_size=64`` or, of a task of a suite, ``digits:batch_size=64``; the task knows what a value means."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise click.BadParameter(f"{text!r} must read like batch_size=64.", param_hint="--set")
    return name.strip(), value.strip()


def _run(
    task: str, names: list[str] | None, store: Path, options: dict[str, Any], *, live: bool = False
) -> "Comparison":
    """Run or resume a comparison, with a progress display on stderr, and with its page on this machine if ``live``."""
    from thalweg import comparison
    from thalweg.comparison.presentation.progress_display import progress_display

    was_run = False
    # Redirect task output to stderr; stdout carries results.
    with contextlib.ExitStack() as stack, contextlib.redirect_stdout(sys.stderr):
        page = stack.enter_context(live_report(store)) if live else None
        show = stack.enter_context(progress_display())

        def watch(progress: comparison.Progress) -> None:
            nonlocal was_run
            was_run = True
            show(progress)
            if page is not None:
                page.update(progress)

        result = comparison.compare(task, names, store=store, watch=watch, **options)
    if not was_run:
        note = ""
        if result.record.workload.is_function:  # known by its text; the data of a task are part of its key
            note = " If data that the function reads have changed, pass another --out."
        finished = f"already finished at {result.record.finished}. Results are from {store}; nothing was run."
        echo(finished + note, err=True)
    return result


def print_comparison(comparison: "Comparison") -> None:
    """Print the table of contenders, the verdict with its cautions, and the line of code to paste."""
    for name, print_part in (
        ("the title", _print_title),
        ("the table", _print_table),
        ("the verdict", _print_verdict),
        ("the cautions", _print_cautions),
        ("the failed trainings", _print_failures),
        ("the code", _print_code),
    ):
        comparison.parts.make(name, partial(print_part, comparison), None)


def _print_title(comparison: "Comparison") -> None:
    from rich.text import Text

    console = stdout_console()
    console.print(Text(printable(f"{comparison.record.workload.name}: {comparison.metric}"), style="italic"))
    if comparison.device:
        console.print(Text(printable(comparison.device), style="italic"))


def _print_table(comparison: "Comparison") -> None:
    from thalweg.comparison.presentation import overview

    console = stdout_console()
    print_table(console, overview.table_of(comparison))
    for note in overview.notes_of(comparison):
        console.print(note)


def _print_verdict(comparison: "Comparison") -> None:
    console, verdict = stdout_console(), comparison.verdict
    console.print()
    console.print(verdict.text)
    console.print(verdict.ranking_text)


def _print_cautions(comparison: "Comparison") -> None:
    console = stdout_console()
    for sentence in [*comparison.half_sample_check, *comparison.cautions]:
        console.print(sentence)


def _print_failures(comparison: "Comparison") -> None:
    console = stdout_console()
    for failure in comparison.failures:
        console.print(failure.note)


def _print_code(comparison: "Comparison") -> None:
    if comparison.code:
        echo(f"\n{comparison.code}\n")  # click does not wrap it, so it can be copied
