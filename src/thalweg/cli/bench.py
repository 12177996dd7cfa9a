"""The command ``thalweg bench``: time a step on this machine, beside torch and other installed libraries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.bench import Benchmark


@click.command(
    short_help="Time the steps of optimizers on this machine.",
    epilog=example("thalweg bench --set small --rule adamw --rounds 5"),
)
@click.option(
    "--set",
    "set_names",
    multiple=True,
    metavar="NAME",
    help="Set of parameter shapes: gpt2, small or resnet50. Repeat the option for several. [default: all]",
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME",
    help="adam, adamw, momentum, adagrad or rmsprop. Repeat the option for several. [default: all]",
)
@click.option("--rounds", default=30, show_default=True, help="Number of timed steps of each implementation.")
@click.option(
    "--with",
    "implementations",
    metavar="NAMES",
    help="Implementations to time, comma-separated. Other libraries are timed only if you name them. "
    "[default: thalweg's and torch's]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the results to this file, as JSON.",
)
@json_option
def bench(
    set_names: Sequence[str],
    rules: Sequence[str],
    rounds: int,
    implementations: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time the steps of thalweg's optimizers and of torch's, in one interleaved run.

    Ratios compare median times with torch's fused kernel, or with torch's default if there is no fused kernel.
    """
    from thalweg.bench import RULES, SETS
    from thalweg.bench import bench as run_benchmark

    names = None if implementations is None else [name.strip() for name in implementations.split(",")]
    benchmarks = []
    for set_name in set_names or SETS:
        for rule in rules or RULES:
            benchmark = run_benchmark(
                set_name,
                rule,
                rounds=rounds,
                implementations=names,
                progress=lambda message: click.echo(message, err=True),
            )
            benchmarks.append(benchmark)
            if not as_json:
                print_benchmark(benchmark)
    records = [benchmark.as_dict() for benchmark in benchmarks]
    if out is not None:
        out.write_text(json.dumps(records, indent=1) + "\n")
    if as_json:
        print_json(records)


def print_benchmark(benchmark: "Benchmark") -> None:
    """Print a benchmark as a table."""
    from rich.table import Table

    console = stdout_console()
    console.print(
        f"{benchmark.rule} on {benchmark.set}: {benchmark.num_parameters:,} parameters in {benchmark.num_tensors} "
        f"tensors, {benchmark.machine['threads']} threads, {benchmark.bandwidth_gb_s:.1f} GB/s"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("", "ms", f"÷ {benchmark.baseline}", "10–90 %", "dispatches", "extra MB", "GB/s", "of bandwidth"):
        table.add_column(column, justify="left" if not column else "right")
    for measurement in benchmark.measured:
        table.add_row(
            measurement.name,
            f"{measurement.median_ms:.2f}",
            f"{measurement.ratio:.2f}",
            f"{measurement.ratio_low:.2f}–{measurement.ratio_high:.2f}",
            "?" if measurement.dispatches is None else str(measurement.dispatches),
            "?" if measurement.peak_extra_mb is None else f"{measurement.peak_extra_mb:.1f}",
            f"{measurement.moved_gb_s:.1f}",
            f"{measurement.of_bandwidth:.0%}",
        )
    console.print(table)
    console.print()
