"""The record of regrets: judged runs against the latest truth, thalweg beside each other method in pairs, a table."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.choosing_in_the_wild.bank import Bank, source_of
from benchmarks.choosing_in_the_wild.methods import Recommendation
from benchmarks.choosing_in_the_wild.regret import best_of, regret_of, summarize
from benchmarks.choosing_in_the_wild.training import CONTENDERS, Training, mean_of, shown_worse
from benchmarks.tables import markdown
from thalweg.comparison import parse
from thalweg.comparison.planning.adaptive.search_space import starting_point
from thalweg.comparison.presentation.profile import profile_of
from thalweg.comparison.results.terms import listed

OURS = "thalweg"
STOPS_EARLY = False  # of a search without `prune`; until November 27, 2026 every search stopped bad trainings
KEY = ("training", "source", "method", "budget", "repeat")  # what tells one run from all others
_KEPT = (
    *(*KEY, "contender", "settings", "trainings", "test", "regret", "beside_untuned", "shown_worse"),
    *("interval", "covered", "covered_with_error", "wall_s", "seconds"),
)
WORSE = 0.01  # a recommended line may be worse than the best untuned one by so much


def merged(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of a record with new ones, which replace those of the same run."""
    return list({tuple(row[key] for key in KEY): row for row in (*stored, *new)}.values())


def judged_again(
    rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], trainings: Mapping[str, Training], bank: Bank
) -> list[dict[str, Any]]:
    """Return rows with their regret against the truth as it is known now, and beside the best untuned setting.

    Rows of an edited training are left out.

    Args:
        rows: The rows that ``regret`` has written.
        record: The record of the truth.
        trainings: The trainings by name.
        bank: The bank, which trains what it lacks of the recommended settings.
    """
    judged = []
    for row in rows:
        training = trainings.get(row["training"])
        if training is None or row["source"] != source_of(training.train):
            continue
        recommendation = Recommendation(
            row["contender"], row["settings"], row["trainings"], row["interval"], row.get("note", "")
        )
        _, best = best_of(record, training)
        measured = regret_of(bank, training, recommendation, best)
        judged.append({**row, **measured, **_beside_untuned(bank, training, recommendation, record)})
    return judged


def _beside_untuned(
    bank: Bank, training: Training, recommendation: Recommendation, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return by how much a recommended setting is worse than the best untuned one, and if by more than 1 % for sure.

    The second is a t test over the seeds, each of which trained both.
    """
    untuned = record["trainings"][training.name]["best_untuned"]
    costs = bank.true_costs(training, untuned["contender"], untuned["settings"])
    if recommendation.contender is None:
        own = [training.cost(math.nan)] * len(costs)
    else:
        own = bank.true_costs(training, recommendation.contender, recommendation.settings)
    margin = math.log1p(WORSE) if training.scale == "log" else WORSE
    beside = training.regret(mean_of(own).cost, mean_of(costs).cost)
    return {"beside_untuned": beside, "shown_worse": shown_worse(own, costs, margin)}


def pairs(rows: Sequence[Mapping[str, Any]], rival: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield for each budget how thalweg does beside a rival, in runs of one training, budget and repeat.

    Yields:
        The budget, and: the number of pairs, the share in which thalweg's regret is less (equal ones count half), and
        thalweg's median regret over the rival's.
    """
    by_key = {(row["method"], row["budget"], row["training"], row["repeat"]): row["regret"] for row in rows}
    for budget in dict.fromkeys(row["budget"] for row in rows):
        both = [
            (regret, by_key[rival, *key])
            for (method, *key), regret in by_key.items()
            if method == OURS and key[0] == budget and (rival, *key) in by_key
        ]
        if both:
            less = sum(1.0 if own < theirs else 0.5 if own == theirs else 0.0 for own, theirs in both)
            own, theirs = (median(regrets) for regrets in zip(*both, strict=True))
            yield budget, {"pairs": len(both), "less": less / len(both), "ratio": own / theirs if theirs else math.nan}


def condense(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of the record from judged rows."""
    methods: dict[str, dict[str, Any]] = {}
    for method, budget, numbers in summarize(rows):
        own = [row for row in rows if (row["method"], row["budget"]) == (method, budget)]
        worse = {
            "worse_than_untuned": sum(row["beside_untuned"] > WORSE for row in own) / len(own),
            "shown_worse_than_untuned": sum(row["shown_worse"] for row in own) / len(own),
        }
        methods.setdefault(method, {})[budget] = numbers | worse
    rivals = [method for method in methods if method != OURS]
    return {
        "methods": methods,
        "beside": {rival: dict(pairs(rows, rival)) for rival in rivals},
        "rows": [{key: row[key] for key in _KEPT} for row in rows],
    }


def as_json(record: Mapping[str, Any]) -> str:
    """Return the text of the record's file: each row is a line of its own."""
    rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in record["rows"])
    head = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=1, allow_nan=False)
    return f'{head.removesuffix("}").rstrip()},\n "rows": [\n  {rows}\n ]\n}}\n'


def search_version() -> dict[str, Any]:
    """Return the facts of today's search that change its regrets; ``report`` keeps them in the record.

    Example:
        >>> version = search_version()
        >>> version["stops_early"], version["without_starting_point"], version["starting_points"]["adam"]
        (False, [], {'lr': 0.01, 'beta1': 0.973})
    """
    without = [name for name in CONTENDERS if not profile_of(parse(name)).record]
    points = {name: starting_point(parse(name))[0] for name in CONTENDERS}
    return {"stops_early": STOPS_EARLY, "without_starting_point": without, "starting_points": points}


def _version_note(judged: Mapping[str, Any]) -> str:
    """Return which version of the search was judged, and if today's is another one."""
    stops = "stopped bad trainings early" if judged["stops_early"] else "stopped no training early"
    without = judged["without_starting_point"]
    points = f"had no starting points for {listed(without)}" if without else "had a starting point for every contender"
    note = f"The search of thalweg that was judged {stops} and {points}."
    if judged != search_version():
        note += " Today's search differs in this and was not judged by this record."
    return note


def as_table(record: Mapping[str, Any]) -> str:
    """Return the table of the documents."""
    methods, beside = record["methods"], record["beside"]
    ordered = sorted(methods, key=lambda method: method != OURS)
    columns = [(budget, method) for budget in methods[OURS] for method in ordered if budget in methods[method]]
    head = ["", *(f"{method}, {_words(budget)}" for budget, method in columns)]
    rows: list[list[str]] = []
    for words, key in (
        ("regret, median", "median"),
        ("regret, 90th percentile", "p90"),
        ("worse than the best untuned setting by more than 1 %", "worse_than_untuned"),
        ("the same, shown by a t test", "shown_worse_than_untuned"),
        ("share of the time that was used, median", "time_used"),
        ("95 % intervals that cover the mean of 20 other seeds", "covered"),
        ("the same, with the error of that mean", "covered_with_error"),
    ):
        rows.append([words, *(percent(methods[method][budget][key]) for budget, method in columns)])
    for words, key, form in (
        ("pairs in which thalweg's regret is less", "less", percent),
        ("median regret of thalweg ÷ its", "ratio", "{:.2f}".format),
    ):
        cells = [form(beside[method][budget][key]) if method in beside else "–" for budget, method in columns]
        rows.append([words, *cells])
    runs = {numbers["runs"] for each in methods.values() for numbers in each.values()}
    count = " or ".join(map(str, sorted(runs)))
    note = f"Each column is of {count} runs: {record['about']}. {record['machine']['processor']}."
    return "\n\n".join([markdown.table(head, rows), note, _version_note(record["search"])])


def _words(budget: str) -> str:
    return f"{budget.removesuffix('trainings')} trainings"


def percent(share: float | None) -> str:
    """Return a share for a table, with one decimal below 10 %; a dash if there is none."""
    return (
        "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
    )
