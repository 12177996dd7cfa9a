"""Choosing: what comparisons find, cost and get wrong, from records of `benchmarks/records` and `lab/records`."""

import statistics
from typing import Any

from benchmarks.tables import markdown
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.terms import listed

Record = Any  # parsed JSON


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
    lengths = " and ".join(f"{length:g}" for length in record["lengths"])
    lines += [
        "",
        f"Geometric means over tasks of the validation loss, divided by the best of {record['settings']} "
        f"settings and the default of the same contender; {record['seeds']} seeds, {record['schedule']} schedule. "
        f"Chosen without this task: the starting point is chosen on all other tasks. Tasks: {tasks}, each trained for "
        f"{lengths} of its passes.",
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


def verdicts_table(record: Record) -> str:
    """Return what comparisons say about the examples, beside what a careful experiment finds."""
    rows = []
    for name, example in record["examples"].items():
        verdicts, best = example["verdicts"], example["best"]
        regrets = ", ".join(f"{verdict['recommended']} {_share(verdict['regret'])}" for verdict in verdicts)
        intervals = [verdict for verdict in verdicts if verdict["covered"] is not None]
        covered, with_error = (sum(verdict[key] for verdict in intervals) for key in ("covered", "covered_with_error"))
        false = sorted({loser for verdict in verdicts for loser in verdict["false_claims"]})
        rows.append(
            [
                f"`{name}`",
                example["budget"],
                f"{best} ({example['contenders'][best]['true_value']:.4g})",
                regrets,
                listed(false) if false else "none",
                f"{covered} of {len(intervals)}",
                f"{with_error} of {len(intervals)}",
                f"{sum(verdict['signed'] for verdict in verdicts)} of {len(verdicts)}",
            ]
        )
    head = [
        "example",
        "budget",
        "best of the experiment",
        "recommended, worse by",
        "false claims",
        "intervals that cover",
        "with the error of the mean",
    ]
    machine = next(iter(record["examples"].values()))["machine"]
    seeds = sorted({str(example["seeds"]) for example in record["examples"].values()})
    note = (
        f"Worse by: the mean over {listed(seeds)} fresh seeds beside that of the best setting that the experiment "
        "found; negative if it is better. An interval covers if it contains the mean of the recommended setting over "
        "these seeds. This mean has an error; with it, half of the interval and 1.96 errors are added in quadrature. "
        f"{markdown.machine_text(machine)}, on one core."
    )
    return "\n\n".join([markdown.table([*head, "signed"], rows), note])


def _share(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"×{1 + share:.3g}"
