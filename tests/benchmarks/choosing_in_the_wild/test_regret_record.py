"""The record of regrets, from rows whose numbers are known by hand."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.choosing_in_the_wild import regret, regret_record
from benchmarks.choosing_in_the_wild.bank import VALUE_SEEDS, Bank, source_of
from benchmarks.choosing_in_the_wild.training import Training, TrainingRun
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.comparison import compare, parse

RECORDS = Path(__file__).parents[3] / "benchmarks" / "records"


def train(make_optimizer: Any, report: Any) -> None:
    """Nothing is trained here."""


TRAINING = Training(name="made", about="", train=train, steps=1, schedule="", metric="", worst=6.0)
RECORD = {
    "trainings": {
        "made": {
            "source": source_of(train),
            "best": "adam",
            "contenders": {
                "sgd": {"level": 1, "best": {"cost": math.log(1.5)}},
                "adam": {"level": 1, "best": {"cost": 0.0}},
                "lion": {"level": 0},
            },
            "best_untuned": {"contender": "adam", "settings": {"lr": 0.5}, "cost": math.log(1.6)},
        }
    }
}


def row(method: str, test: float, repeat: int = 0, budget: str = "20trainings", **others: Any) -> dict[str, Any]:
    """A run that recommends a setting with this true score: the learning rate names it."""
    return {
        "training": "made",
        "source": source_of(train),
        "method": method,
        "budget": budget,
        "repeat": repeat,
        "contender": "sgd",
        "settings": {"lr": test},
        "trainings": 19,
        "test": 9.0,  # of an earlier truth, like the next two
        "regret": 9.0,
        "covered": True,
        "covered_with_error": True,
        "interval": None,
        "wall_s": 9.5,
        "seconds": 10.0,
    } | others


def judged(rows: Sequence[Mapping[str, Any]], spread: float = 0.0) -> list[dict[str, Any]]:
    """Judge rows with a bank in which each learning rate scores itself, and the best untuned setting 1.6.

    Every other seed scores higher by the factor 1 + spread, the others lower, but not that of the untuned setting.
    """
    bank = Bank(None, stored=None, trains=False)
    for number, seed in enumerate(VALUE_SEEDS):
        factor = (1 + spread) ** (1 if number % 2 else -1)
        scores = [("sgd", line["settings"]["lr"], line["settings"]["lr"] * factor) for line in rows]
        for contender, lr, score in (*scores, ("adam", 0.5, 1.6)):
            bank.add(TRAINING, contender, {"lr": lr}, seed, TrainingRun(score, score, (score,), 1.0))
    return regret_record.judged_again(rows, RECORD, {"made": TRAINING}, bank)


def test_rows_are_judged_by_the_truth_as_it_is_now() -> None:
    rows = [
        row("thalweg", 1.2, interval=(1.1, 1.3)),
        row("thalweg", 1.2, contender=None),
        row("thalweg", 1.2, source="an earlier version"),
        row("thalweg", 1.2, interval=(1.25, 1.3)),
    ]
    good, lost, missed = judged(rows)
    assert (good["test"], good["regret"], good["covered"]) == (pytest.approx(1.2), pytest.approx(0.2), True)
    assert good["beside_untuned"] == pytest.approx(1.2 / 1.6 - 1)
    assert lost["regret"] == pytest.approx(5.0)  # the score that counts as nothing learned
    assert lost["covered"] is None
    assert (missed["covered"], missed["covered_with_error"]) == (False, False)


def test_pairs_are_of_one_budget_and_repeat() -> None:
    ours, theirs = (1.2, 1.1, 1.3, 1.0), (1.4, 1.1, 1.2, 1.5)
    rows = [row("thalweg", test, repeat) for repeat, test in enumerate(ours)]
    rows += [row("tpe", test, repeat) for repeat, test in enumerate(theirs)]
    rows += [row("thalweg", 1.0, 4), row("tpe", 1.0, 0, "60trainings"), row("other", 1.0)]  # without a partner
    ((budget, numbers),) = regret_record.pairs(judged(rows), "tpe")
    assert budget == "20trainings"
    assert numbers == {"pairs": 4, "less": 2.5 / 4, "ratio": pytest.approx(0.15 / 0.3)}


def test_the_record_counts_lines_that_are_worse_than_the_best_untuned_one() -> None:
    """The best untuned setting has 1.6: 1.61 is worse by less than 1 %, 1.62 by more."""
    rows = [row("thalweg", test, repeat) for repeat, test in enumerate((1.2, 1.61, 1.62, 3.0))]
    record = regret_record.condense(judged(rows))
    numbers = record["methods"]["thalweg"]["20trainings"]
    assert (numbers["runs"], numbers["worse_than_untuned"], numbers["shown_worse_than_untuned"]) == (4, 0.5, 0.5)
    assert numbers["median"] == pytest.approx(0.615)
    assert [entry["repeat"] for entry in record["rows"]] == [0, 1, 2, 3]
    assert record["beside"] == {}


def test_a_line_is_shown_to_be_worse_only_beyond_the_spread_between_seeds() -> None:
    """Half of the seeds score 20 % higher, half lower: 20 seeds show 10 % more than 1.6, and do not show 4 %.

    The standard error is 0.1871 / sqrt(20) = 0.0418 of a logarithm, t is 1.729: 7.2 % more than 1 % are needed.
    """
    rows = [row("thalweg", 1.6 * factor) for factor in (1.04, 1.075, 1.09, 1.2)]
    assert [line["shown_worse"] for line in judged(rows, 0.2)] == [False, False, True, True]
    assert [line["beside_untuned"] > regret_record.WORSE for line in judged(rows, 0.2)] == [True] * 4


def test_a_report_keeps_the_rows_of_the_record_and_replaces_those_that_ran_again() -> None:
    record = regret_record.condense(judged([row("thalweg", 1.2), row("thalweg", 1.4, 1)]))
    new = [row("thalweg", 1.1, 1), row("thalweg", 1.3, 2), row("thalweg", 1.9) | {"source": "edited"}]
    rows = regret_record.merged(json.loads(json.dumps(record))["rows"], new)
    again = judged(rows)
    assert [(entry["repeat"], entry["test"]) for entry in again] == [(0, 1.2), (1, 1.1), (2, 1.3)]
    numbers = regret_record.condense(again)["methods"]["thalweg"]["20trainings"]
    assert (numbers["runs"], numbers["median"]) == (3, pytest.approx(0.2))


def test_each_row_is_a_line_of_the_file() -> None:
    record = {
        "about": "two",
        "machine": {"cores": 2},
        "rows": [{"regret": 0.5, "settings": {"lr": 0.1}}, {"regret": None}],
    }
    text = regret_record.as_json(record)
    assert json.loads(text) == record
    assert sum('"regret"' in line for line in text.splitlines()) == 2
    assert json.loads(regret_record.as_json({"about": "none", "rows": []})) == {"about": "none", "rows": []}


def test_the_table_says_what_the_record_says() -> None:
    rows = [row("thalweg", 1.2, repeat, interval=(1.1, 1.3)) for repeat in range(2)] + [row("tpe", 1.4)]
    record = regret_record.condense(judged(rows))
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": regret_record.search_version()}
    lines = regret_record.as_table(record | facts).splitlines()
    assert lines[0] == "|  | thalweg, 20 trainings | tpe, 20 trainings |"
    assert lines[2:] == [
        "| regret, median | 20 % | 40 % |",
        "| regret, 90th percentile | 20 % | 40 % |",
        "| worse than the best untuned setting by more than 1 % | 0.0 % | 0.0 % |",
        "| the same, shown by a t test | 0.0 % | 0.0 % |",
        "| share of the time that was used, median | 95 % | 95 % |",
        "| 95 % intervals that cover the mean of 20 other seeds | 100 % | – |",
        "| the same, with the error of that mean | 100 % | – |",
        "| pairs in which thalweg's regret is less | – | 100 % |",
        "| median regret of thalweg ÷ its | – | 0.50 |",
        "",
        "Each column is of 1 or 2 runs: made. a processor.",
        "",
        "The search of thalweg that was judged stopped no training early and had a starting point for every contender.",
    ]


def test_a_method_that_was_not_run_at_a_budget_has_no_column_for_it() -> None:
    rows = [row("tpe", 1.4), row("thalweg", 1.2), row("thalweg", 1.1) | {"budget": "200trainings"}]
    record = regret_record.condense(judged(rows))
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": regret_record.search_version()}
    lines = regret_record.as_table(record | facts).splitlines()
    assert lines[0] == "|  | thalweg, 20 trainings | tpe, 20 trainings | thalweg, 200 trainings |"
    assert lines[2] == "| regret, median | 20 % | 40 % | 10 % |"


def test_the_table_says_if_an_older_search_was_judged() -> None:
    rows = [row("thalweg", 1.2), row("tpe", 1.4)]
    record = regret_record.condense(judged(rows))
    earlier = {"stops_early": True, "without_starting_point": ["lion", "nadam"]}
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": earlier}
    assert regret_record.as_table(record | facts).splitlines()[-1] == (
        "The search of thalweg that was judged stopped bad trainings early and had no starting points for lion and "
        "nadam. Today's search differs in this and was not judged by this record."
    )


def test_the_version_of_the_search_is_that_of_the_code() -> None:
    assert regret_record.search_version()["starting_points"]["muon+adamw"] == parse("muon+adamw").recommended
    assert inspect.signature(compare).parameters["prune"].default is regret_record.STOPS_EARLY
    assert regret_record.search_version()["without_starting_point"] == []
    measured = json.loads((RECORDS / "recommended.json").read_text())["contenders"]
    assert {"lion", "nadam"} <= set(measured)


def test_the_record_names_the_search_that_it_judged() -> None:
    record = json.loads((RECORDS / "choosing_in_the_wild_regret.json").read_text())
    assert record["search"].keys() == regret_record.search_version().keys()
    page = (RECORDS.parents[1] / "docs" / "choosing" / "comparison.md").read_text()
    assert regret_record.as_table(record).splitlines()[-1] in page


def test_the_committed_bank_judges_the_committed_record_without_a_training() -> None:
    record = json.loads((RECORDS / "choosing_in_the_wild_regret.json").read_text())
    rows = [line for line in record["rows"] if line["repeat"] == 0]
    again = regret_record.judged_again(rows, regret.load_record(), TRAININGS, Bank(None, trains=False))
    assert [line["shown_worse"] for line in again] == [line["shown_worse"] for line in rows]
    assert [line["regret"] for line in again] == pytest.approx([line["regret"] for line in rows], rel=1e-4, abs=1e-5)
