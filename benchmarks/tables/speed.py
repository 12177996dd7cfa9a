"""Speed: the time of steps beside other implementations, from records of `benchmarks/records`."""

from typing import Any

from benchmarks.tables import markdown
from thalweg.bench.implementations import OTHER_LIBRARIES
from thalweg.registry import RULES

SET_NAMES = {
    "gpt2": "GPT-2-like, 98 M parameters in 148 tensors",
    "resnet50": "ResNet-50-like, 26 M parameters in 161 tensors",
    "small": "0.8 M parameters in 400 small tensors",
}


Record = Any  # parsed JSON


def with_range(result: dict[str, float]) -> str:
    """Return the ratio of a measurement, and the tenth and ninetieth percentile over its rounds."""
    return f"{result['ratio']:.2f} ({result['ratio_low']:.2f} to {result['ratio_high']:.2f})"


def rivals_table(records: list[Record]) -> str:
    """Return the step time of AdamW-like optimizers of several libraries, beside torch's fused AdamW."""
    labels = {"torch fused": "torch.optim.AdamW, `fused=True`", "thalweg": "thalweg.optim.AdamW"}
    labels |= {library: place.replace(":", ".") for library, place in OTHER_LIBRARIES.items()}
    results = [{row["name"]: row for row in record["measured"]} for record in records]
    rows = [
        [label, *("1" if name == "torch fused" else with_range(result[name]) for result in results)]
        for name, label in labels.items()
    ]
    sizes = [SET_NAMES[record["set"]] for record in records]
    machine = records[0]["machine"]
    note = (
        "Step time divided by that of torch's fused AdamW, both measured in one interleaved run: the ratio of medians, "
        f"and in brackets the 10th and 90th percentile over {records[0]['rounds']} rounds. "
        f"{markdown.machine_text(machine)}."
    )
    return "\n".join([markdown.table(["optimizer", *sizes], rows), "", note])


def steps_table(records: list[Record]) -> str:
    """Return the step time of our rules beside torch's fastest implementation, by model size."""
    names = list(dict.fromkeys(record["rule"] for record in records))
    rows = []
    for set_name, title in SET_NAMES.items():
        cells = [title]
        for name in names:
            (record,) = [record for record in records if (record["set"], record["rule"]) == (set_name, name)]
            ours = next(result for result in record["measured"] if result["name"] == "thalweg")
            cells.append(with_range(ours) + ("" if record["baseline"] == "torch fused" else " *"))
        rows.append(cells)
    note = (
        "Step time divided by that of torch's fused kernel, measured in one interleaved run: the ratio of medians, and "
        "in brackets the 10th and 90th percentile over the rounds. * torch has no fused RMSprop; this is the ratio to "
        f"its default. {markdown.machine_text(records[0]['machine'])}."
    )
    return "\n".join([markdown.table(["parameters", *names], rows), "", note])


def adamw_text(records: dict[str, Record]) -> str:
    """Return what every run measured for AdamW, which is in more than one table."""

    def ratio(name: str, parameters: str) -> float:
        (record,) = [row for row in records[name] if (row["set"], row["rule"]) == (parameters, "adamw")]
        return next(result["ratio"] for result in record["measured"] if result["name"] == "thalweg")

    by_rule = next(row["of_fused"] for row in records["rules"]["rows"] if row["rule"] == "adamw")
    large, small = ([ratio(name, parameters) for name in ("steps", "rivals")] for parameters in ("gpt2", "small"))
    return (
        f"AdamW was measured in three runs. On GPT-2's parameters it took {large[0]:.2f} of torch's time in the table "
        f"above, {large[1]:.2f} in that of other libraries and {by_rule:.2f} in the table below; on small tensors "
        f"{small[0]:.2f} and {small[1]:.2f}. These numbers differ by less than the rounds of each run. Read them as "
        "equal to torch for the large model, where memory bandwidth limits a step and both programs move the same "
        "bytes, and as less than half of torch's time for small tensors."
    )


def rules_table(record: Record) -> str:
    """Return the step time of each rule beside torch's fused AdamW, and the bytes that it moves."""
    rows = []
    measured = {row["rule"]: row for row in record["rows"]}
    for name, row in sorted(measured.items()):
        low, high = row["spread"]
        time = f"{row['of_fused']:.2f} ({low:.2f} to {high:.2f})"
        if row["read"] is None:
            rows.append([name, row["scope"], time, f"no kernel: {', '.join(row['ways'])}", "", ""])
        else:
            moved = f"{row['read']:.0f}, {row['written']:.0f}"
            rows.append([name, row["scope"], time, moved, f"{row['a_byte']:.2f}", f"{row['a_byte_read']:.2f}"])
    head = [
        "rule",
        "scope",
        "time ÷ fused AdamW's",
        "bytes read, written",
        "time by byte moved",
        "time by byte read",
    ]
    note = f"Medians of {record['rounds']} interleaved rounds, and their range; {record['machine']['processor']}."
    missing = sorted(set(RULES) - set(measured))
    if missing:
        note += f" Not in this table: {', '.join(missing)}. Rules of matrices are in the next one."
    return "\n".join([markdown.table(head, rows), "", note])


def matrices_table(record: Record) -> str:
    """Return the step time of rules of matrices beside other libraries."""
    lines = [
        "| rule | compared with | layers of GPT-2, width | time ratio | ours | theirs |",
        "|---|---|---|---|---|---|",
    ]
    spreads, rounds = [], []
    for row in record["rows"]:
        ours, theirs = row["ms"].values()
        with_ = f" with {row['polynomials']}" if "polynomials" in row else ""
        where = f"{row['square']} squares" if "square" in row else row["layers"]
        runs = {row["rule"] + with_: row | {"ms": ours}}
        runs |= {f"{row['rule']}, {name}": choice for name, choice in row.get("choices", {}).items()}
        for name, run in runs.items():
            low, high = run["ratios"]
            lines.append(
                f"| {name} | {row['against']} | {where}, {row['width']} | {run['ratio']:.2f} "
                f"({low:.2f} to {high:.2f}) | {run['ms']:.0f} ms | {theirs:.0f} ms |"
            )
        if "spread" in row:
            ours_spread, torch_spread = row["spread"].values()
            spreads.append(
                f"The singular values of a step of Muon{with_} spread by {ours_spread:.3f} of their mean here and by "
                f"{torch_spread:.3f} in torch."
            )
        at = f" at {row['width']}" if "products" in row or "square" in row else ""
        rounds.append(f"{row['rule']}{with_}{at} {row['rounds']} of {row['steps']}")
    note = f"Medians of interleaved rounds (rounds of steps: {', '.join(rounds)}); {record['machine']['processor']}."
    lines += ["", " ".join([*spreads, note])]
    if "products_a_second_at_most" in record:
        lines += ["", *_products(record)]
    return "\n".join(lines)


def _products(record: Record) -> list[str]:
    """Return the matrix products of a step, and their speed beside the peak of the machine."""
    most = record["products_a_second_at_most"]
    lines = [
        "| rule | width | implementation | operations in matrix products of a step | ÷ theirs | share of peak speed |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        for name, operations in row.get("products", {}).items():
            share, least = row["products_a_second"][name] / most, operations / row["products"][row["against"]]
            lines.append(
                f"| {row['rule']} | {row['width']} | {name} | {operations / 1e9:.1f} G | {least:.2f} | {share:.0%} |"
            )
    end = "eigenvalue and singular value decompositions are not counted."
    return [
        *lines,
        "",
        f"Peak speed: a product of two 3072x3072 matrices, {most / 1e9:.0f} G operations a second; {end}",
    ]
