"""`thalweg bench`: what a step costs on this machine, beside torch and whatever else is installed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.bench import Benchmark


@click.command(epilog=example("thalweg bench --set small --rule adamw --rounds 5"))
@click.option("--set", "sets", multiple=True, help="gpt2, small or resnet50; may be given again. Default: all three.")
@click.option("--rule", "rules", multiple=True, help="adam, adamw, momentum, adagrad or rmsprop. Default: all.")
@click.option("--rounds", default=30, show_default=True, help="Steps timed of each.")
@click.option(
    "--with",
    "entrants",
    help="Who is measured, as names with commas between; other libraries too. Default: ours, torch's.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the record here, as JSON, too.")
@json_option
def bench(
    sets: Sequence[str], rules: Sequence[str], rounds: int, entrants: str | None, out: Path | None, as_json: bool
) -> None:
    """Time steps of the optimizers, ours beside torch's, in one interleaved run.

    Ratios are of medians, to torch's fused kernel (to torch's default where there is none).
    """
    from thalweg.bench import RULES, SETS
    from thalweg.bench import bench as measured

    names = None if entrants is None else [name.strip() for name in entrants.split(",")]
    found = []
    for set_name in sets or SETS:
        for rule in rules or RULES:
            one = measured(
                set_name, rule, rounds=rounds, entrants=names, progress=lambda text: click.echo(text, err=True)
            )
            found.append(one)
            if not as_json:
                print_benchmark(one)
    records = [one.as_dict() for one in found]
    if out is not None:
        out.write_text(json.dumps(records, indent=1) + "\n")
    if as_json:
        print_json(records)


def print_benchmark(one: "Benchmark") -> None:
    """A benchmark as a table of the terminal."""
    from rich.table import Table

    console = stdout_console()
    console.print(
        f"{one.rule} on {one.set}: {one.num_parameters:,} parameters in {one.num_tensors} tensors, "
        f"{one.machine['threads']} threads, {one.bandwidth_gb_s:.1f} GB/s"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("", "ms", f"÷ {one.baseline}", "10–90 %", "dispatches", "extra MB", "GB/s", "of bandwidth"):
        table.add_column(column, justify="left" if not column else "right")
    for row in one.measured:
        table.add_row(
            row.name,
            f"{row.median_ms:.2f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f}–{row.ratio_high:.2f}",
            "?" if row.dispatches is None else str(row.dispatches),
            "?" if row.peak_extra_mb is None else f"{row.peak_extra_mb:.1f}",
            f"{row.moved_gb_s:.1f}",
            f"{row.of_bandwidth:.0%}",
        )
    console.print(table)
    console.print()
