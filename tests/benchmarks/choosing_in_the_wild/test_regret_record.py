"""The record of regrets, from rows whose numbers are known by hand."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.choosing_in_the_wild import regret_record
from benchmarks.choosing_in_the_wild.bank import source_of
from benchmarks.choosing_in_the_wild.training import Training
from thalweg.comparison import compare

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
                "sgd": {"level": 1, "best": {"cost": math.log(1.5)}, "starts": [{"cost": math.log(2.0)}]},
                "adam": {"level": 1, "best": {"cost": 0.0}, "starts": [{"cost": math.log(1.6)}]},
                "lion": {"level": 0},
            },
        }
    }
}


def row(method: str, test: float, repeat: int = 0, budget: str = "20trainings", **others: Any) -> dict[str, Any]:
    return {
        "training": "made",
        "source": source_of(train),
        "method": method,
        "budget": budget,
        "repeat": repeat,
        "contender": "sgd",
        "settings": {"lr": 0.1},
        "trainings": 19,
        "test": test,
        "regret": 9.0,  # of an earlier truth
        "interval": None,
        "covered": None,
        "wall_s": 9.5,
        "seconds": 10.0,
    } | others


def test_rows_are_judged_by_the_truth_as_it_is_now() -> None:
    rows = [row("thalweg", 1.2), row("thalweg", math.nan), row("thalweg", 1.2, source="an earlier version")]
    good, lost = regret_record.judged_again(rows, RECORD, {"made": TRAINING})
    assert (good["regret"], good["beside_untuned"]) == pytest.approx((0.2, 1.2 / 1.6 - 1))
    assert lost["regret"] == pytest.approx(5.0)  # the score that counts as nothing learned


def test_pairs_are_of_one_budget_and_repeat() -> None:
    ours, theirs = (1.2, 1.1, 1.3, 1.0), (1.4, 1.1, 1.2, 1.5)
    rows = [row("thalweg", test, repeat) for repeat, test in enumerate(ours)]
    rows += [row("tpe", test, repeat) for repeat, test in enumerate(theirs)]
    rows += [row("thalweg", 1.0, 4), row("tpe", 1.0, 0, "60trainings"), row("other", 1.0)]  # without a partner
    judged = regret_record.judged_again(rows, RECORD, {"made": TRAINING})
    ((budget, numbers),) = regret_record.pairs(judged, "tpe")
    assert budget == "20trainings"
    assert numbers == {"pairs": 4, "less": 2.5 / 4, "ratio": pytest.approx(0.15 / 0.3)}


def test_the_record_counts_lines_that_are_worse_than_the_best_untuned_one() -> None:
    """The best untuned setting has 1.6: 1.61 is worse by less than 1 %, 1.62 by more."""
    rows = [row("thalweg", test, repeat) for repeat, test in enumerate((1.2, 1.61, 1.62, 3.0))]
    record = regret_record.condense(regret_record.judged_again(rows, RECORD, {"made": TRAINING}))
    numbers = record["methods"]["thalweg"]["20trainings"]
    assert (numbers["runs"], numbers["worse_than_untuned"]) == (4, 0.5)
    assert numbers["median"] == pytest.approx(0.615)
    assert [entry["repeat"] for entry in record["rows"]] == [0, 1, 2, 3]
    assert record["beside"] == {}


def test_a_report_keeps_the_rows_of_the_record_and_replaces_those_that_ran_again() -> None:
    record = regret_record.condense(
        regret_record.judged_again([row("thalweg", 1.2), row("thalweg", 1.4, 1)], RECORD, {"made": TRAINING})
    )
    new = [row("thalweg", 1.1, 1), row("thalweg", 1.3, 2), row("thalweg", 1.9) | {"source": "edited"}]
    rows = regret_record.merged(json.loads(json.dumps(record))["rows"], new)
    again = regret_record.judged_again(rows, RECORD, {"made": TRAINING})
    assert [(entry["repeat"], entry["test"]) for entry in again] == [(0, 1.2), (1, 1.1), (2, 1.3)]
    numbers = regret_record.condense(again)["methods"]["thalweg"]["20trainings"]
    assert (numbers["runs"], numbers["median"]) == (3, pytest.approx(0.2))


def test_the_table_says_what_the_record_says() -> None:
    rows = [row("thalweg", 1.2, repeat, covered=True) for repeat in range(2)] + [row("tpe", 1.4)]
    record = regret_record.condense(regret_record.judged_again(rows, RECORD, {"made": TRAINING}))
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": regret_record.search_version()}
    lines = regret_record.as_table(record | facts).splitlines()
    assert lines[0] == "|  | thalweg, 20 trainings | tpe, 20 trainings |"
    assert lines[2:] == [
        "| regret, median | 20 % | 40 % |",
        "| regret, 90th percentile | 20 % | 40 % |",
        "| worse than the best untuned setting by more than 1 % | 0.0 % | 0.0 % |",
        "| share of the time that was used, median | 95 % | 95 % |",
        "| 95 % intervals that cover the true mean | 100 % | – |",
        "| pairs in which thalweg's regret is less | – | 100 % |",
        "| median regret of thalweg ÷ its | – | 0.50 |",
        "",
        "Each column is of 1 or 2 runs: made. a processor.",
        "",
        "The search of thalweg that was judged stopped no training early and had a starting point for every contender.",
    ]


def test_a_method_that_was_not_run_at_a_budget_has_no_column_for_it() -> None:
    rows = [row("tpe", 1.4), row("thalweg", 1.2), row("thalweg", 1.1) | {"budget": "200trainings"}]
    record = regret_record.condense(regret_record.judged_again(rows, RECORD, {"made": TRAINING}))
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": regret_record.search_version()}
    lines = regret_record.as_table(record | facts).splitlines()
    assert lines[0] == "|  | thalweg, 20 trainings | tpe, 20 trainings | thalweg, 200 trainings |"
    assert lines[2] == "| regret, median | 20 % | 40 % | 10 % |"


def test_the_table_says_if_an_older_search_was_judged() -> None:
    rows = [row("thalweg", 1.2), row("tpe", 1.4)]
    record = regret_record.condense(regret_record.judged_again(rows, RECORD, {"made": TRAINING}))
    judged = {"stops_early": True, "without_starting_point": ["lion", "nadam"]}
    facts = {"about": "made", "machine": {"processor": "a processor"}, "search": judged}
    assert regret_record.as_table(record | facts).splitlines()[-1] == (
        "The search of thalweg that was judged stopped bad trainings early and had no starting points for lion and "
        "nadam. Today's search differs in this and was not judged by this record."
    )


def test_the_version_of_the_search_is_that_of_the_code() -> None:
    assert inspect.signature(compare).parameters["prune"].default is regret_record.STOPS_EARLY
    assert regret_record.search_version()["without_starting_point"] == []
    measured = json.loads((RECORDS / "recommended.json").read_text())["contenders"]
    assert {"lion", "nadam"} <= set(measured)


def test_the_record_names_the_search_that_it_judged() -> None:
    record = json.loads((RECORDS / "choosing_in_the_wild_regret.json").read_text())
    assert record["search"].keys() == regret_record.search_version().keys()
    page = (RECORDS.parents[1] / "docs" / "choosing" / "comparison.md").read_text()
    assert regret_record.as_table(record).splitlines()[-1] in page
