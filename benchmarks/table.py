"""Write the tables of the documents from the committed records: `python benchmarks/table.py`.

Measurements come from the records in `benchmarks/records` and `lab/records`. Facts that a rule declares (scope, weight
decay, state, advice) come from the registry of rules, so that a new optimizer is in the documents without another edit.
"""

import ast
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from thalweg import rules
from thalweg.bench.floors import moved_bytes
from thalweg.bench.implementations import OTHER_LIBRARIES
from thalweg.bench.sets import SETS, SETS_FOR_DEVICE
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.registry import RULES, WRAPPERS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the parts of `make gpu`

from benchmarks.choosing_in_the_wild import regret_record, truth_tables  # noqa: E402
from benchmarks.doctor import tables as doctor_tables  # noqa: E402
from benchmarks.gpu.parts import PARTS  # noqa: E402
from benchmarks.handbook import markdown  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records"
SOURCES = ROOT / "src" / "thalweg"
DOCUMENTS = (
    ROOT / "ARCHITECTURE.md",
    ROOT / "benchmarks" / "doctor" / "README.md",
    ROOT / "docs" / "choosing" / "comparison.md",
    ROOT / "docs" / "choosing" / "digits.md",
    ROOT / "docs" / "choosing" / "optuna.md",
    ROOT / "docs" / "choosing" / "which_optimizer.md",
    ROOT / "docs" / "choosing" / "learning_rates.md",
    ROOT / "docs" / "diagnosis" / "doctor.md",
    ROOT / "docs" / "diagnosis" / "index.md",
    ROOT / "docs" / "extending" / "conformance.md",
    ROOT / "docs" / "running" / "gpu.md",
    ROOT / "docs" / "optimizers" / "evidence.md",
    ROOT / "docs" / "choosing" / "transfer.md",
)
SET_NAMES = {
    "gpt2": "GPT-2-like, 98 M parameters in 148 tensors",
    "resnet50": "ResNet-50-like, 26 M parameters in 161 tensors",
    "small": "0.8 M parameters in 400 small tensors",
}

Record = Any  # parsed JSON


def with_range(result: dict[str, float]) -> str:
    """Return the ratio of a measurement, and the tenth and ninetieth percentile over its rounds."""
    return f"{result['ratio']:.2f} ({result['ratio_low']:.2f} to {result['ratio_high']:.2f})"


def demo_table(record: Record) -> str:
    """Return the result of `make demo`: the race of the chosen settings."""
    rows = []
    for contender in record["contenders"]:
        settings = ", ".join(f"{name}={contender['settings'][name]:.2g}" for name in contender["searched"])
        seeds, lost = len(contender["seeds"]), contender["diverged"] + contender["failed"]
        rows.append(
            [
                contender["name"],
                settings,
                f"{contender['value']:.3f} ({contender['low']:.3f} to {contender['high']:.3f})",
                f"{contender['worse_by']:.1%}".replace("%", " %") if contender["worse_by"] else "",
                f"{contender['untuned']:.2f}",
                f"{lost} of {seeds}",
            ]
        )
    head = ["contender", "tuned settings", record["metric"], "worse by", "untuned", "lost runs"]
    verdict, names = record["verdict"], [contender["name"] for contender in record["contenders"]]
    tied = [name for name in verdict["tied"] if name != verdict["recommended"]]
    best, studies = verdict["recommended"], record["contenders"][0]["studies"]
    worse = [name for name in names if name not in verdict["ranked"]]
    note = (
        f"**Verdict: use {best}.** The evidence does not separate it from {listed(tied)}; all other contenders, at "
        "their chosen settings, are shown to be worse. This holds for these settings. The ranking of the optimizers is "
        f"a second question: over {studies} independent studies, {listed(verdict['ranked'])} are not told apart, and "
        f"{listed(worse)} are shown to be worse."
    )
    legend = (
        f"{record['trainings']:,} trainings of a perceptron with 64 hidden units on 1,797 images, on two CPU cores. In "
        "brackets: 95 % intervals over seeds. Contenders that the race kept longer stand first and have more seeds. "
        f"Worse by: the difference in the race, seed by seed, to {best}, which was the best there. The value of {best} "
        "comes from further seeds that no decision has used, so it can differ from its mean in the race. Untuned: the "
        "same training at the library's default settings; the search, on few seeds, can choose a slightly worse one."
    )
    return "\n".join([markdown.table(head, rows), "", legend, "", note])


def listed(names: list[str]) -> str:
    """Return names as an enumeration."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def optuna_text(records: dict[str, Record]) -> str:
    """Return what was measured of searches without fresh seeds, and of the speed beside Optuna's studies."""
    facts = {record["fact"]: record["seen"] for record in records["facts"]}
    too_good = facts["winners_curse"]["best of the search, too good by"]
    optimism = [f"{share:.1%}".replace("%", " %") for share in too_good]
    false_alarms = f"{facts['naive_tests']['25 trials'][0]:.0%}".replace("%", " %")
    shares = sorted(row["ours_by_extrapolated"] for row in records["choosing"]["rows"])
    return (
        f"Measured on digits with AdamW: the best of 24 trials looked {optimism[0]} better than it was (95 % interval "
        f"{optimism[1]} to {optimism[2]}). Two identical optimizers were tuned with 25 trials each and compared by a "
        "t-test over 5 seeds at the 5 % level. Repeated many times, this called them different in "
        f"{false_alarms} of the cases ([facts](comparison.md#facts-to-check-a-comparison-against)). "
        "thalweg also trains many small models at once. With a perceptron of width 32, its comparisons took "
        f"{shares[0]:.2f} to {shares[-1]:.2f} of the time of Optuna studies with as many trainings in plain loops. The "
        "time of those studies is extrapolated from a "
        "sample of their trainings ([measurement](comparison.md#what-a-budget-buys))."
    )


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


def conformance_table(record: Record) -> str:
    """Return how many optimizers of each library pass all checks, and which checks fail most often."""
    rows = []
    for library, result in sorted(record["libraries"].items()):
        failed = failed_checks(result["optimizers"])
        every = [check for checks in failed.values() for check in checks]
        most = sorted(set(every), key=lambda check: (-every.count(check), check))[:3]
        worst = ", ".join(f"{check.replace('_', ' ')} ({every.count(check)})" for check in most)
        sound = sum(not checks for checks in failed.values())
        rows.append([f"{library} {result['version']}", str(len(failed)), str(sound), worst])
    ours = failed_checks(record["libraries"]["thalweg.optim"]["optimizers"])
    known = "; ".join(
        f"{name} ({', '.join(check.replace('_', ' ') for check in checks)})" for name, checks in ours.items() if checks
    )
    head = ["library", "optimizers checked", "pass all checks", "failed most often (by how many optimizers)"]
    return "\n".join([markdown.table(head, rows), "", f"Of ours, these fail: {known}."])


def failed_checks(optimizers: dict[str, Any]) -> dict[str, list[str]]:
    """Return the checks that each optimizer fails; an optimizer that could not be checked is left out."""
    return {
        name: [finding["check"] for finding in findings if finding["outcome"] == "failed"]
        for name, findings in optimizers.items()
        if isinstance(findings, list)
    }


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


def choosing_table(record: Record) -> str:
    """Return what a budget buys, beside the same number of trainings in sequence."""
    lines = [
        "| digits, steps of a training | budget | time | trainings | optimizer steps | optimizers ranked | "
        "Optuna and plain loops, extrapolated | our time ÷ that |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        ranked = f"yes, {row['studies']} studies of {row['draws']} draws" if row["ranked"] else "no"
        lines.append(
            f"| {max(row['steps'].values())} | {row['budget']} | {row['wall_s']:.0f} s | "
            f"{sum(row['trainings'].values()):,} | {row['optimizer_steps']:,} | {ranked} | "
            f"{row['one_after_the_other']['extrapolated_s']:,.0f} s | {row['ours_by_extrapolated']:.3f} |"
        )
    first, machine = record["rows"][0], record["machine"]
    counted = first["one_after_the_other"]["measured_trainings"]
    lines += [
        "",
        f"A perceptron of width 32, {len(first['trainings'])} contenders. The comparison is with studies of Optuna "
        f"{record['optuna']} (TPE) over the same spaces, which train in plain loops with torch's optimizers, one "
        f"training after the other. These were not run in full: their time is extrapolated from "
        f"{counted['of each contender']} trainings of each contender, half of them before and half after our "
        f"comparison, with 1 or {counted['with threads'][-1]} threads, whichever is faster. "
        f"{markdown.machine_text(machine)}.",
    ]
    return "\n".join(lines)


def store_table(record: Record) -> str:
    """Return the share of the time that the store takes."""

    def shown(share: dict[str, float]) -> str:
        return f"{share['median']:.2%} (worst {share['worst']:.2%})".replace("%", " %")

    lines = [
        f"| {record['trials']:,} trials of {record['trial_s']:g} s, written in batches of | share of the time | "
        "with two workers | file |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        alone, with_two = row["share_by_workers"].values()
        lines.append(f"| {row['batch']} | {shown(alone)} | {shown(with_two)} | {row['bytes'] / 1e6:.1f} MB |")
    lines += [
        "",
        f"Writing and reading back, with {record['looks']} evaluations a trial; median and worst of "
        f"{record['repetitions']} repetitions. Bound: {record['bound']:.0%}.".replace("%", " %"),
    ]
    return "\n".join(lines)


def recommended_table(record: Record) -> str:
    """Return the settings to start from, and the loss that they cost."""
    lines = [
        "| contender | starting point | loss ÷ best loss | chosen without this task | worst task | library default |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in record["contenders"].items():
        settings = ", ".join(f"{key}={value:g}" for key, value in result["recommended"].items())
        mean = result["mean_factor"]
        worst = max(factor["left_out"] for factor in result["factor_by_task"].values())
        lines.append(
            f"| {name} | {settings} | {mean['recommended']:.2f} | {mean['left_out']:.2f} | {worst:.2f} | "
            f"{mean['default']:.2f} |"
        )
    tasks = ", ".join(f"{task} ({facts['passes']} passes)" for task, facts in record["tasks"].items())
    lines += [
        "",
        f"Geometric means over tasks of the validation loss, divided by the best of {record['settings']} "
        f"settings and the default of the same contender; {record['seeds']} seeds, {record['schedule']} schedule. "
        f"Chosen without this task: the starting point is chosen on all other tasks. Tasks: {tasks}.",
    ]
    return "\n".join(lines)


def transfer_table(record: Record) -> str:
    """Return how good a transferred learning rate is."""
    lines = [
        "| from AdamW to | best lr ÷ lr by step | best lr ÷ lr by distance | loss: by step | by distance | "
        "AdamW's lr | default |",
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
        f"Medians and ranges over {', '.join(record['tasks'])}; {record['grid']} learning rates in the search range of "
        f"each rule, {record['seeds']} seeds, {record['kept']} gradients. A loss is divided by the best of the grid.",
    ]
    return "\n".join(lines)


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


def catalogue_table(record: Record) -> str:
    """Return the evidence for each optimizer and wrapper, and how each differs from its source."""
    rows, differences = [], []
    measured = {entry["name"]: entry for entry in record["rules"]}
    for kind in sorted(RULES.values(), key=lambda kind: kind.__name__.lower()):
        entry = measured.get(kind.__name__)
        explained = rules.explain(kind())
        differences.append(f"- **{kind.__name__}**: {explained.departs}")
        if entry is None:
            rows.append([kind.__name__, "not measured", *[""] * 10])
            continue
        semantics = explained.semantics
        rows.append(
            [
                kind.__name__,
                entry["reference"],
                f"{entry['error']:.0e}",
                semantics["weight decay"],
                semantics["ε"],
                semantics["bias correction"],
                explained.scope,
                ", ".join(entry["ways"]),
                f"{explained.state_bytes:g}",
                *(f"{entry['checks'].get(outcome, 0)}" for outcome in ("passed", "failed", "refused")),
            ]
        )
    head = ["optimizer", "reference", "error", "weight decay", "ε", "bias correction", "scope", "backends"]
    head += ["state (bytes)", "checks passed", "failed", "refused"]
    wrappers = [
        [entry["name"], entry["reference"].removeprefix("around "), f"{entry['error']:.0e}", ", ".join(entry["ways"])]
        for entry in record["wrappers"]
    ]
    tested = {entry["name"] for entry in record["wrappers"]}
    wrappers += [[kind.__name__, "not measured", "", ""] for kind in WRAPPERS.values() if kind.__name__ not in tested]
    differences += [
        f"- **{kind.__name__}**: {rules.explain(kind(rules.Adam())).departs}" for _, kind in sorted(WRAPPERS.items())
    ]
    return "\n".join(
        [
            markdown.table(head, rows),
            "",
            markdown.table(["wrapper", "around", "error", "backends"], wrappers),
            "",
            "Differences from the source:",
            "",
            *differences,
        ]
    )


def resting_table() -> str:
    """Return what happens to parameters without a gradient, for rules and wrappers that do more than leave them."""
    explained = [(kind.__name__, rules.explain(kind())) for _, kind in sorted(RULES.items())]
    explained += [(kind.__name__, rules.explain(kind(rules.Adam()))) for _, kind in sorted(WRAPPERS.items())]
    usual = rules.explain(rules.SGD()).semantics["without a gradient"]
    rows = [
        [name, explanation.semantics["without a gradient"]]
        for name, explanation in explained
        if explanation.semantics["without a gradient"] != usual
    ]
    return markdown.table(["rule or wrapper", "in a step without a gradient"], [*rows, ["all others", usual]])


# Copies reach about nine tenths of the 3.35 TB/s that NVIDIA specifies for the H100 SXM.
H100_COPY_BYTES_S = 3.0e12
_L2_BYTES = 50e6  # of the same GPU
_PREDICTED = (
    (rules.AdamW(), torch.float32),
    (rules.AdamW(), torch.bfloat16),
    (rules.SGD(momentum=0.9), torch.float32),
    (rules.Lion(), torch.float32),
    (rules.Adan(), torch.float32),
    (rules.LAMB(), torch.float32),
)


def predicted_floors() -> str:
    """Return the predicted floors of steps on a GPU: the bytes of each rule, divided by the bandwidth of a copy."""
    rows = []
    for set_name in SETS_FOR_DEVICE:
        shapes = SETS[set_name]()
        numel = sum(torch.Size(shape).numel() for shape in shapes)
        cells = []
        for rule, dtype in _PREDICTED:
            moved = sum(moved_bytes(rule, shapes, dtype) or ())
            in_cache = moved < _L2_BYTES
            cells.append("in the cache" if in_cache else f"{1e3 * moved / H100_COPY_BYTES_S:.2f} ms")
        rows.append([f"{set_name}, {numel / 1e6:,.1f} M in {len(shapes)} tensors", *cells])
    heads = []
    for rule, dtype in _PREDICTED:
        per_number = sum(moved_bytes(rule, [(1000, 1000)], dtype) or ()) / 1e6
        heads.append(f"{rule.name} {str(dtype).removeprefix('torch.')}, {per_number:g} B")
    note = (
        "**Predicted, not measured**: the bytes that a step must read and write for each parameter, divided by "
        f"{H100_COPY_BYTES_S / 1e12:g} TB/s, the bandwidth of a copy on an H100. State is float32. Parameters that fit "
        "into the cache have no such floor; there the host limits a step."
    )
    return "\n".join([markdown.table(["parameters", *heads], rows), "", note])


def gpu_line() -> str:
    """Return the state of the proofs on a GPU: the records that exist, or that there are none."""
    files = [RECORDS / f"gpu_{name}.json" for name in PARTS]
    records = [json.loads(file.read_text()) for file in files if file.exists()]
    measured = [record for record in records if not record["stub"] and record["outcome"] == "finished"]
    if not measured:
        return (
            "**Not yet measured on a GPU.** CUDA kernels exist and no GPU was at hand. Proved without one: the text of "
            "every kernel, compiled for the CPU, gives the bits of the reference loop; NVRTC compiles it for three "
            "architectures; the whole path to the driver runs against a stub."
        )
    hardware = measured[0]["hardware"]
    counts = ", ".join(f"{record['part']} {record['passed']}" for record in measured)
    failed = sum(len(record["failed"]) for record in records)
    missed = sum(not target["reached"] for record in measured for target in record["targets"])
    return (
        f"Measured on {hardware['gpu']} (driver {hardware['driver']}, CUDA {hardware['cuda']}, PyTorch "
        f"{hardware['torch']}, {hardware['date'][:10]}). Checks passed: {counts}; failed: {failed}. Bounds missed: "
        f"{missed}."
    )


def gpu_parts() -> str:
    """Return the parts of `make gpu`."""
    rows = [[f"`{name}`", part.content, f"{part.seconds} s"] for name, part in PARTS.items()]
    return markdown.table(["part", "content", "at most"], rows)


TABLES: dict[str, Callable[[Any], str]] = {
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
    "choosing_in_the_wild_regret": regret_record.as_table,
    "doctor": doctor_tables.doctor_table,
    "pages": doctor_tables.pages_line,
    "watch": doctor_tables.watch_line,
    "doctor_exam": doctor_tables.exam_line,
}


def module_map() -> str:
    """Return a line for each module, from its docstring. Files of optimizers, and of wrappers, share a line."""
    lines = []
    for folder in sorted({path.parent for path in SOURCES.rglob("*.py")}):
        modules = sorted(path for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__"))
        name = folder.relative_to(SOURCES).as_posix().removeprefix(".")
        lines += ["", f"**{name or 'thalweg'}/** {_summary(folder / '__init__.py')}", ""]
        if name in ("rules", "rules/wrappers"):
            lines.append(f"- `NAME.py`: {len(modules)} files, one {'optimizer' if name == 'rules' else 'wrapper'} each")
            continue
        lines += [f"- `{path.name}`: {_summary(path)}" for path in modules]
    return "\n".join(lines).strip()


def _summary(module: Path) -> str:
    """Return the first sentence of a module's docstring, without its title before a colon."""
    text = (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    title, colon, rest = text.partition(": ")
    summary = (rest if colon and len(title.split()) < 5 else text).strip()
    return summary[:1].upper() + summary[1:]


def setting_designs() -> str:
    """Return how many trainings each stage of a search for one setting gets, by the budget."""
    budgets = (7, 8, 15, 40, 100, 300, 1000)
    rows = []
    for place, trainings in enumerate(budgets):
        design = SettingDesign.for_trainings(trainings, num_contenders=9)
        seeds = f"{design.final_seeds} seed{'s' * (design.final_seeds > 1)}"
        finals = f"{design.finalists + 1} settings × {seeds}" if design.finalists else "none"
        sizes = [str(analysis.size) for analysis in design.race]
        race = f"up to {design.racers + 1} settings × {sizes[-1]} seeds, tests at {listed(sizes)}" if sizes else "none"
        value = f"{design.value} seeds" if design.value else "none"
        label = "under 8" if not place else f"from {trainings:,} on"
        search = str(trainings - design.reserved) if place else "all"
        rows.append([label, search, finals, race, value])
    return markdown.table(["trainings", "search, at least", "finals", "race", "value"], rows)


def wild_tables(record: Record) -> dict[str, str]:
    """Return what the true best settings of real trainings say, as tables and as a sentence for each training."""
    return {
        "wild_contenders": truth_tables.contenders_table(record),
        "wild_summary": truth_tables.summary_table(record),
        "wild_learning_rates": truth_tables.learning_rates_table(record),
        **{f"wild_{name}": truth_tables.evidence_line(record, name) for name in record["trainings"]},
    }


def tables() -> dict[str, str]:
    """Return every table, by the name that marks its place in a document."""
    records = {path.stem: json.loads(path.read_text()) for path in RECORDS.glob("*.json")}
    results = {name: table(records[name]) for name, table in TABLES.items() if name in records}
    demo = json.loads((ROOT / "lab" / "records" / "2026-11-21-demo-two-questions.json").read_text())
    return results | {
        **wild_tables(records["choosing_in_the_wild"]),
        "untuned": truth_tables.defaults_table(records["recommended"]),
        "setting_designs": setting_designs(),
        "demo": demo_table(demo),
        "optuna": optuna_text(records),
        "adamw": adamw_text(records),
        "resting": resting_table(),
        "modules": module_map(),
        "kinds": doctor_tables.kinds_list(),
        "predicted": predicted_floors(),
        "gpu": gpu_line(),
        "gpu_parts": gpu_parts(),
    }


def filled(text: str) -> str:
    """Return a document with the table of each of its places written anew."""
    for name, table in tables().items():
        text = _replaced(text, name, table)
    return text


def _replaced(text: str, name: str, table: str) -> str:
    """Return a document with a table between the marks of this name, if the document has them."""

    def with_marks(match: re.Match[str]) -> str:
        return f"{match[1]}{table}\n<!-- /{name} -->"

    pattern = rf"(<!-- {name}: made by benchmarks/table.py -->\n).*?(\n?<!-- /{name} -->)"
    return re.sub(pattern, with_marks, text, flags=re.DOTALL)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
