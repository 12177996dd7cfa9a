"""The command ``thalweg bench``: time a step on this machine, beside torch and other installed libraries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import echo, end_with, example, joined, json_option, naming_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.bench import Benchmark, Measurement


@click.command(
    short_help="Time the steps of optimizers on this machine.",
    epilog=example("thalweg bench --set small --rule adamw --rounds 5"),
)
@click.option(
    "--set",
    "set_names",
    multiple=True,
    metavar="NAME",
    help="Set of parameter shapes: gpt2, small, resnet50, gpt2-124m, gpt2-355m or llama-1b. Repeat the option for "
    "several. [default: gpt2, small and resnet50; on a device all but gpt2]",
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME",
    help="adam, adamw, momentum, adagrad, rmsprop, nadam, radam, adafactor, lion, adan, adopt, prodigy or lamb. Repeat "
    "the option for several. [default: the first five]",
)
@click.option("--rounds", default=30, show_default=True, help="Number of timed steps of each implementation.")
@click.option(
    "--with",
    "implementations",
    metavar="NAMES",
    multiple=True,
    callback=joined,
    help="Implementations to time, comma-separated; can be repeated. Other libraries are timed only if you name them. "
    "[default: thalweg's and torch's]",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Device of the parameters: cpu, cuda, cuda:1, xpu or mps. On a device, a copy in the same rounds measures the "
    "bandwidth.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype of the parameters and gradients, on a device.",
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
    device: str,
    dtype: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time the steps of thalweg's optimizers and of torch's, in one interleaved run.

    Ratios compare median times with torch's fused kernel, or with torch's default if there is no fused kernel.
    """
    import torch

    from thalweg.bench import bench as run_benchmark
    from thalweg.bench.implementations import DEFAULT_RULES
    from thalweg.bench.sets import SETS_FOR_CPU, SETS_FOR_DEVICE
    from thalweg.parts import Parts

    if out is not None:
        from thalweg.report.files import check_place

        with naming_option("--out"):  # before minutes of measurement
            check_place(out)
    names = None if implementations is None else [name.strip() for name in implementations.split(",")]
    benchmarks = []
    for set_name in set_names or (SETS_FOR_CPU if device == "cpu" else SETS_FOR_DEVICE):
        for rule in rules or DEFAULT_RULES:
            benchmark = run_benchmark(
                set_name,
                rule,
                rounds=rounds,
                implementations=names,
                progress=lambda message: echo(message, err=True),
                device=device,
                dtype=getattr(torch, dtype),
            )
            benchmarks.append(benchmark)
            if not as_json:
                print_benchmark(benchmark)
    records = [benchmark.as_dict() for benchmark in benchmarks]
    parts = Parts()
    if out is not None:
        from thalweg.report.files import write_file

        content = f"{json.dumps(records, indent=1)}\n".encode()
        parts.make("the file", naming_option("--out")(lambda: write_file(out, content)), None)
    if as_json:
        print_json(records)
    end_with(parts)


def print_benchmark(benchmark: "Benchmark") -> None:
    """Print a benchmark as a table."""
    from rich.table import Table

    from thalweg.bench import DeviceBenchmark

    console = stdout_console()
    size = f"{benchmark.num_parameters:,} parameters in {benchmark.num_tensors} tensors"
    if isinstance(benchmark, DeviceBenchmark):
        console.print(
            f"{benchmark.rule} on {benchmark.set}: {size}, {benchmark.dtype}, {benchmark.machine['gpu']}, "
            f"copy {benchmark.bandwidth_gb_s:.1f} GB/s"
        )
    else:
        console.print(
            f"{benchmark.rule} on {benchmark.set}: {size}, {benchmark.machine['threads']} threads, "
            f"{benchmark.bandwidth_gb_s:.1f} GB/s"
        )
    table = Table(box=None, pad_edge=False)
    for measurement in benchmark.measured:
        cells = _cells(measurement, benchmark.baseline)
        if not table.columns:
            for column in cells:
                table.add_column(column, justify="left" if not column else "right")
        table.add_row(*cells.values())
    console.print(table)
    if isinstance(benchmark, DeviceBenchmark):
        if benchmark.floor_ms is not None:
            console.print(
                f"floor: {benchmark.floor_ms:.3f} ms, the time of a copy of the bytes that the rule must move"
            )
        for name, reason in benchmark.failed.items():
            console.print(f"{name} failed: {reason}")
        for name, reason in benchmark.absent.items():
            console.print(f"{name} is absent: {reason}")
    console.print()


def _cells(measurement: "Measurement", baseline: str) -> dict[str, str]:
    """Return a row of the table, by column."""
    from thalweg.bench import DeviceMeasurement

    on_device = isinstance(measurement, DeviceMeasurement)
    cells = {
        "": measurement.name,
        "ms": f"{measurement.median_ms:.{3 if on_device else 2}f}",
        f"÷ {baseline}": f"{measurement.ratio:.2f}",
        "10–90 %": f"{measurement.ratio_low:.2f}–{measurement.ratio_high:.2f}",
    }
    if isinstance(measurement, DeviceMeasurement):
        cells["host ms"] = f"{measurement.host_ms:.3f}"
        cells["waits"] = _text(measurement.waits)
    cells |= {
        "dispatches": _text(measurement.dispatches),
        "extra MB": "?" if measurement.peak_extra_mb is None else f"{measurement.peak_extra_mb:.1f}",
        "GB/s": f"{measurement.moved_gb_s:.1f}",
        "of copy" if on_device else "of bandwidth": f"{measurement.of_bandwidth:.0%}",
    }
    if isinstance(measurement, DeviceMeasurement):
        cells["of floor"] = "?" if measurement.of_floor is None else f"{measurement.of_floor:.0%}"
    return cells


def _text(number: int | None) -> str:
    return "?" if number is None else str(number)
