"""Calibration: the error rates of the procedure, its live check, and published facts that it reproduces."""

from typing import Any

Record = Any  # parsed JSON


_CALIBRATED = {
    "identical_called_different": ("O: two identical contenders are called different (nominal 5 %)", "2-8 %"),
    "any_of_eight_dropped": ("O: any of eight identical contenders is dropped", "at most 8 %"),
    "power_at_5%": ("O: a true difference of 5 % is detected", ""),
    "power_at_10%": ("O: a true difference of 10 % is detected", "default budget: at least 50 %"),
    "power_at_20%": ("O: a true difference of 20 % is detected", "default budget: at least 90 %"),
    "coverage_of_ratio": ("O: coverage of the 95 % interval of a ratio", "92-98 %"),
    "wrong_claims": ("S: the claimed best is more than 3 % worse than the true best", "at most 5 %"),
    "abstains_when_best_leads_by_5%": (
        'S: the verdict is "not enough evidence" although the best leads by 5 % or more',
        "at most 5 %",
    ),
    "recommended_within_margin_of_best": ("S: the recommended contender is the best or within 3 % of it", ""),
    "coverage_of_value": ("S: coverage of the 95 % interval of the value", "92-98 %"),
}


def calibration_table(records: list[Record]) -> str:
    """Return the error rates that the procedure should have, and those that replays showed, by design and family."""
    heads = [
        f"{record['family']}, {record['design']['draws']} draws, "
        f"{'/'.join(str(look[0]) for look in record['design']['ranking'])} studies"
        for record in records
    ]
    lines = [f"| | bound | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for key, (words, bound) in _CALIBRATED.items():
        cells = []
        for record in records:
            result = record[key]
            text = (
                f"{result['share']:.1%} ({result['low']:.1%}-{result['high']:.1%}, {result['of']})"
                if result["of"]
                else "-"
            )
            cells.append(text.replace("%", " %"))
        lines.append(f"| {words} | {bound} | {' | '.join(cells)} |")
    cells = [
        f"{result['mean']:.2%} ({result['low']:.2%} to {result['high']:.2%})".replace("%", " %")
        for result in (record["optimism_of_value"] for record in records)
    ]
    lines.append(
        f"| S: mean optimism of the value (how much better it looks than it is) | at most 0.5 % | {' | '.join(cells)} |"
    )
    kinds = [
        ", ".join(f"{kind} {record['settled'][kind]['share']:.0%}".replace("%", " %") for kind in record["settled"])
        for record in records
    ]
    lines.append(f'| S: how races end ("open": not enough evidence) | | {" | ".join(kinds)} |')
    lines += [
        "",
        f"Each cell: a share, its 95 % interval and the number of replays (at most {records[0]['replays']:,}).",
    ]
    return "\n".join(lines)


def live_line(record: Record) -> str:
    """Return the result of live comparisons of a contender with itself."""
    runs = record["runs"]
    different = sum(run["called_different"] for run in runs)
    trainings = sorted(run["trainings"] for run in runs)[len(runs) // 2]
    return (
        f"Live check: {len(runs)} comparisons of AdamW with itself on {record['task']} (budget {record['budget']}, "
        f"median {trainings} trainings) called the two optimizers different {different} times."
    )


def facts_table(records: list[Record]) -> str:
    """Return published facts and their reproduction."""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"{value[0]:.3g} ({value[1]:.3g} to {value[2]:.3g})"
        return f"{value:.4g}"

    lines = ["| claim | setting | measured |", "|---|---|---|"]
    for record in records:
        seen = "; ".join(f"{words}: {shown(value)}" for words, value in record["seen"].items())
        lines.append(f"| {record['claim']} | {record['setting']} | {seen} |")
    return "\n".join(lines)
