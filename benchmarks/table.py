"""The tables of the documents, from the committed records: `python benchmarks/table.py` writes them in place."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCUMENTS = (
    HERE.parent / "README.md",
    HERE.parent / "docs" / "choosing.md",
    HERE.parent / "docs" / "optimizers.md",
    HERE.parent / "docs" / "transfer.md",
)
SET_NAMES = {
    "gpt2": "GPT-2-like, 98 M parameters in 148 tensors",
    "resnet50": "ResNet-50-like, 26 M in 161",
    "small": "0.8 M in 400 small tensors",
}


def steps_table(records: list[dict[str, Any]]) -> str:
    """Ratios of ours to torch's fastest kernel, by set and rule."""
    rules = list(dict.fromkeys(record["rule"] for record in records))
    lines = [f"| step time ÷ torch's | {' | '.join(rules)} |", f"|---|{'---|' * len(rules)}"]
    for name, title in SET_NAMES.items():
        cells = []
        for rule in rules:
            (record,) = [one for one in records if (one["set"], one["rule"]) == (name, rule)]
            ours = next(one for one in record["measured"] if one["name"] == "thalweg")
            cells.append(f"{ours['ratio']:.2f}{'' if record['baseline'] == 'torch fused' else '*'}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    machine = records[0]["machine"]
    lines += [
        "",
        f"Ratios of medians in one interleaved run, to torch's fused kernel (* to torch's default: it has no fused "
        f"RMSprop). {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, no GPU.",
    ]
    return "\n".join(lines)


def conformance_table(record: dict[str, Any]) -> str:
    """How many optimizers of each library fail each check."""
    lines = ["| library | optimizers | fail none | fail most often |", "|---|---|---|---|"]
    for library, found in sorted(record["libraries"].items()):
        checked = {name: one for name, one in found["optimizers"].items() if isinstance(one, list)}
        failed = {
            name: [finding["check"] for finding in one if finding["outcome"] == "failed"]
            for name, one in checked.items()
        }
        every = [check for checks in failed.values() for check in checks]
        most = sorted(set(every), key=lambda check: (-every.count(check), check))[:3]
        worst = ", ".join(f"{check.replace('_', ' ')} ({every.count(check)})" for check in most)
        sound = sum(not checks for checks in failed.values())
        lines.append(f"| {library} {found['version']} | {len(checked)} | {sound} | {worst} |")
    return "\n".join(lines)


def rivals_table(records: list[dict[str, Any]]) -> str:
    """AdamW of other libraries: ratios to torch's fused kernel, by set."""
    names = [one["name"] for one in records[0]["measured"]]
    lines = [f"| AdamW's step time ÷ torch fused | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for record in records:
        ratios = {one["name"]: one["ratio"] for one in record["measured"]}
        lines.append(f"| {SET_NAMES[record['set']]} | {' | '.join(f'{ratios[name]:.2f}' for name in names)} |")
    return "\n".join(lines)


_CALIBRATED = {
    "identical_called_different": ("O: two identical contenders called different (nominal 5 %)", "2-8 %"),
    "any_of_eight_dropped": ("O: any of eight identical ones dropped", "at most 8 %"),
    "power_at_5%": ("O: a true difference of 5 % found", ""),
    "power_at_10%": ("O: a true difference of 10 % found", "default budget: at least 50 %"),
    "power_at_20%": ("O: a true difference of 20 % found", "default budget: at least 90 %"),
    "coverage_of_ratio": ("O: coverage of the 95 % interval of a ratio", "92-98 %"),
    "wrong_claims": ("S: claims whose regret is more than 3 %", "at most 5 %"),
    "abstains_when_best_leads_by_5%": ("S: not enough evidence, though the best leads by 5 % or more", "at most 5 %"),
    "recommended_within_margin_of_best": ("S: recommended is the best, or within 3 % of it", ""),
    "coverage_of_value": ("S: coverage of the value's 95 % interval", "92-98 %"),
}


def calibration_table(records: list[dict[str, Any]]) -> str:
    """What was promised of the protocol, and what replays showed, by design and family."""
    heads = [
        f"{record['family']}, {record['design']['draws']} draws, "
        f"{'/'.join(str(look[0]) for look in record['design']['ranking'])} studies"
        for record in records
    ]
    lines = [f"| | bound | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for key, (words, bound) in _CALIBRATED.items():
        cells = []
        for record in records:
            found = record[key]
            text = (
                f"{found['share']:.1%} ({found['low']:.1%}-{found['high']:.1%}, {found['of']})" if found["of"] else "-"
            )
            cells.append(text.replace("%", " %"))
        lines.append(f"| {words} | {bound} | {' | '.join(cells)} |")
    cells = [
        f"{found['mean']:.2%} ({found['low']:.2%} to {found['high']:.2%})".replace("%", " %")
        for found in (record["optimism_of_value"] for record in records)
    ]
    lines.append(f"| S: optimism of the value, mean | at most 0.5 % | {' | '.join(cells)} |")
    kinds = [
        ", ".join(f"{kind} {record['settled'][kind]['share']:.0%}".replace("%", " %") for kind in record["settled"])
        for record in records
    ]
    lines.append(f"| S: how races end | | {' | '.join(kinds)} |")
    lines += [
        "",
        f"Shares with their 95 % intervals and the number of replays, {records[0]['replays']} at most for each.",
    ]
    return "\n".join(lines)


def live_line(record: dict[str, Any]) -> str:
    """What the live comparisons of a contender with itself showed."""
    runs = record["runs"]
    different = sum(run["called_different"] for run in runs)
    trainings = sorted(run["trainings"] for run in runs)[len(runs) // 2]
    return (
        f"Live, as a check: {len(runs)} comparisons of AdamW with itself on {record['task']} ({record['budget']}, "
        f"{trainings} trainings in the middle) called the two optimizers different {different} times."
    )


def facts_table(records: list[dict[str, Any]]) -> str:
    """Facts that were measured anew."""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"{value[0]:.3g} ({value[1]:.3g} to {value[2]:.3g})"
        return f"{value:.4g}"

    lines = ["| claim | setting | seen |", "|---|---|---|"]
    for record in records:
        seen = "; ".join(f"{words}: {shown(value)}" for words, value in record["seen"].items())
        lines.append(f"| {record['claim']} | {record['setting']} | {seen} |")
    return "\n".join(lines)


def choosing_table(record: dict[str, Any]) -> str:
    """What a budget buys, beside as many trainings one after the other."""
    lines = [
        "| digits, a training of | budget | time | trainings | optimizer steps | optimizers ranked | "
        "one after the other, extrapolated | ours ÷ that |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        ranked = f"yes, {row['studies']} studies of {row['draws']} draws" if row["ranked"] else "no"
        lines.append(
            f"| {max(row['steps'].values())} steps | {row['budget']} | {row['wall_s']:.0f} s | "
            f"{sum(row['trainings'].values()):,} | {row['optimizer_steps']:,} | {ranked} | "
            f"{row['one_after_the_other']['extrapolated_s']:,.0f} s | {row['ours_by_extrapolated']:.3f} |"
        )
    first, machine = record["rows"][0], record["machine"]
    counted = first["one_after_the_other"]["measured_trainings"]
    lines += [
        "",
        f"A perceptron of width 32, {len(first['trainings'])} contenders. One after the other: studies of Optuna "
        f"{record['optuna']} (TPE) over the same spaces, plain loops with torch's optimizers. Not run in full: the "
        f"time of as many trainings is extrapolated from {counted['of each contender']} of each contender, half of "
        f"them before our comparison and half after it, with 1 thread or {counted['with threads'][-1]}, whichever is "
        f"faster. {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}.",
    ]
    return "\n".join(lines)


def store_table(record: dict[str, Any]) -> str:
    """The share of time that the store takes."""

    def shown(share: dict[str, float]) -> str:
        return f"{share['median']:.2%} (worst {share['worst']:.2%})".replace("%", " %")

    lines = [
        f"| {record['trials']:,} trials of {record['trial_s']:g} s, written in batches of | share of the time | "
        "with two workers | file |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        one, two = row["share_by_workers"].values()
        lines.append(f"| {row['batch']} | {shown(one)} | {shown(two)} | {row['bytes'] / 1e6:.1f} MB |")
    lines += [
        "",
        f"To write them and read them back, with curves of {record['looks']} looks; median of {record['repetitions']} "
        f"repetitions, and the worst. Bound: {record['bound']:.0%}.".replace("%", " %"),
    ]
    return "\n".join(lines)


def recommended_table(record: dict[str, Any]) -> str:
    """What is recommended without tuning, and what it loses."""
    lines = [
        "| contender | starting point | loss ÷ the best | chosen without the task | its worst | library default |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in record["contenders"].items():
        settings = ", ".join(f"{key}={value:g}" for key, value in found["recommended"].items())
        mean = found["mean_factor"]
        worst = max(one["left_out"] for one in found["factor_by_task"].values())
        lines.append(
            f"| {name} | {settings} | {mean['recommended']:.2f} | {mean['left_out']:.2f} | {worst:.2f} | "
            f"{mean['default']:.2f} |"
        )
    tasks = ", ".join(f"{task} ({one['passes']} passes)" for task, one in record["tasks"].items())
    lines += [
        "",
        f"Geometric means over tasks of the validation loss ÷ the least of this contender's {record['settings']} "
        f"settings and its default, {record['seeds']} seeds, {record['schedule']} schedule. Tasks: {tasks}.",
    ]
    return "\n".join(lines)


def transfer_table(record: dict[str, Any]) -> str:
    """What a learning rate that was brought over is worth."""
    lines = [
        "| from AdamW to | best lr ÷ by step | ÷ by distance | loss: by step | by distance | AdamW's lr | default |",
        "|---|---|---|---|---|---|---|",
    ]
    wheres = ("by step", "by distance")

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    for target in dict.fromkeys(row["target"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["target"] == target]
        ratios = [middle([row["best_lr"] / row["lr"][where] for row in rows]) for where in wheres]
        factors = [middle([row["factor"][where] for row in rows]) for where in (*wheres, "same", "default")]
        lines.append(f"| {target} | {' | '.join(ratios + factors)} |")
    lines += [
        "",
        f"Medians over {', '.join(record['tasks'])}, and the range; {record['grid']} learning rates in each rule's own "
        f"range, {record['seeds']} seeds, {record['kept']} gradients. Losses over the least.",
    ]
    return "\n".join(lines)


def matrices_table(record: dict[str, Any]) -> str:
    """Steps of rules of matrices beside others'."""
    lines = ["| rule | against | layers of GPT-2, width | time ÷ theirs | ours | theirs |", "|---|---|---|---|---|---|"]
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
            one, two = row["spread"].values()
            spreads.append(
                f"Singular values of a step of Muon{with_} spread by {one:.3f} of their mean here, by {two:.3f} there."
            )
        at = f" at {row['width']}" if "products" in row or "square" in row else ""
        rounds.append(f"{row['rule']}{with_}{at} {row['rounds']} of {row['steps']}")
    note = f"Medians of interleaved rounds of steps: {', '.join(rounds)}; {record['machine']['processor']}."
    lines += ["", " ".join([*spreads, note])]
    if "products_a_second_at_most" in record:
        lines += ["", *_products(record)]
    return "\n".join(lines)


def rules_table(record: dict[str, Any]) -> str:
    """What a step of each rule takes beside torch's fused AdamW, by the bytes that it moves."""
    lines = [
        "| rule | scope | time ÷ fused AdamW's | bytes read, written | by the byte | by the byte read |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(record["rows"], key=lambda row: row["rule"]):
        low, high = row["spread"]
        time = f"{row['of_fused']:.2f} ({low:.2f} to {high:.2f})"
        if row["read"] is None:
            lines.append(f"| {row['rule']} | {row['scope']} | {time} | no kernel: {', '.join(row['ways'])} | | |")
        else:
            moved = f"{row['read']:.0f}, {row['written']:.0f}"
            by = f"{row['a_byte']:.2f} | {row['a_byte_read']:.2f}"
            lines.append(f"| {row['rule']} | {row['scope']} | {time} | {moved} | {by} |")
    return "\n".join(
        [*lines, "", f"Medians of {record['rounds']} interleaved rounds; {record['machine']['processor']}."]
    )


def _products(record: dict[str, Any]) -> list[str]:
    """What the products of matrices in a step come to, and how near they are to what the machine does."""
    most = record["products_a_second_at_most"]
    lines = [
        "| rule | width | whose | operations of products in a step | ÷ theirs | a second, of the most |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        for name, operations in row.get("products", {}).items():
            share, least = row["products_a_second"][name] / most, operations / row["products"][row["against"]]
            lines.append(
                f"| {row['rule']} | {row['width']} | {name} | {operations / 1e9:.1f} G | {least:.2f} | {share:.0%} |"
            )
    end = "eigenvalues and singular values are not counted."
    return [*lines, "", f"The most is that of a product of two matrices of 3072: {most / 1e9:.0f} G a second; {end}"]


def _entry(one: dict[str, Any]) -> list[str]:
    semantics = one["semantics"]
    return [
        one["name"],
        one["reference"],
        f"{one['error']:.0e}",
        semantics["weight decay"],
        semantics["ε"],
        semantics["bias correction"],
        one["scope"],
        ", ".join(one["ways"]),
        f"{one['state_bytes']:g}",
    ]


_ENTRY = ["reference", "error", "weight decay", "ε", "bias corrected", "scope", "ways", "state"]


def catalogue_table(record: dict[str, Any]) -> str:
    """The proof of each rule and wrapper."""
    lines = [
        f"| rule | {' | '.join(_ENTRY)} | checks passed | failed | refused |",
        f"|---|{'---|' * (len(_ENTRY) + 3)}",
    ]
    for one in record["rules"]:
        checks = [f"{one['checks'].get(outcome, 0)}" for outcome in ("passed", "failed", "refused")]
        lines.append(f"| {' | '.join(_entry(one) + checks)} |")
    lines += ["", f"| wrapper | {' | '.join(_ENTRY)} |", f"|---|{'---|' * len(_ENTRY)}"]
    lines += [f"| {' | '.join(_entry(one))} |" for one in record["wrappers"]]
    lines += ["", "What each departs in from its source:", ""]
    for one in [*record["rules"], *record["wrappers"]]:
        lines.append(f"- **{one['name']}**: {one['departs']}")
    return "\n".join(lines)


TABLES = {
    "catalogue": catalogue_table,
    "steps": steps_table,
    "rivals": rivals_table,
    "conformance": conformance_table,
    "calibration": calibration_table,
    "live": live_line,
    "choosing": choosing_table,
    "store_overhead": store_table,
    "recommended": recommended_table,
    "transfer": transfer_table,
    "matrices": matrices_table,
    "rules": rules_table,
    "facts": facts_table,
}


def tables() -> dict[str, str]:
    """Each table by the name of its place and of its record; what has not been measured has none."""
    records = {path.stem: json.loads(path.read_text()) for path in (HERE / "records").glob("*.json")}
    return {name: table(records[name]) for name, table in TABLES.items() if name in records}


def filled(text: str) -> str:
    """A document with every table that it has a place for made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- {name}: made by benchmarks/table.py -->\n).*?(\n?<!-- /{name} -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n<!-- /{name} -->", text, flags=re.DOTALL)  # noqa: B023
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
