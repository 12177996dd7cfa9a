"""Tables of the true best settings, from a record that is known by hand."""

from typing import Any

from benchmarks.choosing_in_the_wild import truth_tables


def entry(cost: float, regret: float, error: float = 0.01) -> dict[str, Any]:
    best = {"settings": {"lr": 0.1}, "cost": cost, "test": -cost, "standard_error": error}
    return {"level": 1, "trainings": 40, "regret": regret, "best": best}


RECORD = {
    "trainings": {
        "grid": {
            "about": "a grid",
            "steps": 60,
            "metric": "return",
            "scale": "linear",
            "unit": 1.0,
            "best": "nadam",
            "contenders": {
                "lion": entry(-0.62, -0.02),
                "sgd": entry(-0.5, 0.1),
                "adam": entry(-0.59, 0.01),
                "nadam": entry(-0.6, 0.0),
            },
        }
    }
}


def test_the_chosen_best_leads_also_if_another_contender_was_better_from_the_seeds_that_measure() -> None:
    results = truth_tables.results_of(RECORD["trainings"]["grid"])
    assert [(result.name, result.certain) for result in results] == [
        ("nadam", False),
        ("lion", False),
        ("adam", False),
        ("sgd", True),
    ]


def test_the_sentence_says_who_is_better_and_who_is_worse() -> None:
    assert truth_tables.evidence_line(RECORD, "grid") == (
        "Our record, `grid` (a grid; 60 steps): the best of 4 tuned optimizers is nadam, return 0.600. "
        "Not told apart from it: lion (0.02 better), adam (0.01). Worse: sgd by 0.1."
    )


def test_the_row_of_a_training_has_one_best_contender() -> None:
    row = truth_tables.contenders_table(RECORD).splitlines()[2]
    assert row.count("**") == 2
    assert "**0.600**" in row
    assert row.count("≈") == 2
