"""The headline of a suite says no more than its matrix, and lost trainings are told from failed ones."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Suite
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.results.aggregate import Aggregate
from thalweg.comparison.suite_standing import Standing
from thalweg.errors import ComparisonInterrupted, TaskError
from thalweg.statistics import Interval


def suite_of(tasks: dict[str, tuple[str, list[str]]], failures: int = 0, pending: tuple[str, ...] = ()) -> Suite:
    """Return a suite of sgd, adam and lion with the state of each task, and the contenders that are tied on it.

    A softened one is that of the best, which other facts do not allow to call settled.

    Over all tasks, sgd is the nearest to the best.
    """

    def comparison_of(settled: str, tied: list[str]) -> Any:
        return SimpleNamespace(
            verdict=SimpleNamespace(settled="best" if settled == "softened" else settled, tied=tied),
            plan=SimpleNamespace(schedules=dict.fromkeys(("sgd", "adam", "lion"))),
            record=SimpleNamespace(finished="then"),
            softening="a reason" if settled == "softened" else None,
        )

    errors = {f"failed {number}": TaskError("gone") for number in range(failures)}
    suite = Suite({task: comparison_of(*state) for task, state in tasks.items()}, errors, pending)
    names = ["sgd", "adam", "lion"]
    suite.__dict__ |= {
        "matrix": {
            task: {name: Standing(0.0, 0, 5, best=False, tied=name in tied) for name in names}
            for task, (_, tied) in tasks.items()
        },
        "aggregate": Aggregate({name: Interval(1.0, 1.0, 1.0) for name in names}, [], {}),
        "contenders": names,
    }
    return suite


@pytest.mark.parametrize(
    ("tasks", "headline", "how_sure"),
    [
        (
            {"a": ("best", ["sgd"]), "b": ("best", ["sgd"])},
            "sgd is the best on all 2 tasks.",
            "Of 2 tasks, sgd is shown to be the best on 2.",
        ),
        ({"a": ("best", ["sgd"])}, "sgd is the best on 1 task.", "On 1 task, sgd is shown to be the best on 1."),
        (
            {"a": ("best", ["sgd"]), "b": ("open", ["adam", "sgd"])},
            "Nearest to the best: sgd.",
            "Of 2 tasks, sgd is shown to be the best on 1 and not told apart from the best on 1.",
        ),
        (
            {"a": ("best", ["sgd"]), "b": ("softened", ["sgd"])},
            "Nearest to the best: sgd.",
            "Of 2 tasks, sgd is shown to be the best on 1 and not told apart from the best on 1.",
        ),
        (
            {"a": ("open", ["sgd", "adam"]), "b": ("within", ["adam", "sgd"])},
            "sgd or adam: not told apart.",
            "Of 2 tasks, sgd is within the margin of the best on 1 and not told apart from the best on 1.",
        ),
        (
            {"a": ("open", ["sgd", "adam", "lion"]), "b": ("unraced", ["sgd"])},
            "sgd or 2 others: not told apart.",
            "Of 2 tasks, sgd is not told apart from the best on 1; nothing is settled on 1.",
        ),
        (
            {"a": ("best", ["adam"]), "b": ("open", ["adam", "sgd"]), "c": ("none", ["sgd"])},
            "Nearest to the best: sgd.",
            "Of 3 tasks, sgd is not told apart from the best on 1 and worse than the best on 1; "
            "nothing is settled on 1.",
        ),
        (
            {"a": ("unraced", ["sgd", "adam"]), "b": ("unended", [])},
            "Best so far: sgd.",
            "Of 2 tasks, nothing is settled on 2.",
        ),
    ],
)
def test_headline_and_certainty_follow_the_verdicts_of_the_tasks(
    tasks: dict[str, tuple[str, list[str]]], headline: str, how_sure: str
) -> None:
    suite = suite_of(tasks)
    assert (suite.headline, suite.how_sure) == (headline, how_sure)


def test_failed_tasks_and_those_to_come_are_counted() -> None:
    suite = suite_of({"a": ("best", ["sgd"])}, failures=2, pending=("later",))
    assert suite.headline == "So far: sgd is the best on 1 task."
    assert suite.how_sure == "So far: of 4 tasks, sgd is shown to be the best on 1; 2 failed; 1 to come."


def failing(make_optimizer, report):
    """Adam converges, RMSprop diverges always, and SGD raises an error always."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    kind, rate = type(optimizer).__name__, optimizer.param_groups[0]["lr"]
    weight.square().sum().backward()
    optimizer.step()
    if kind == "SGD":
        raise ValueError("the disk is gone")
    report(math.nan if kind == "RMSprop" else 0.1 + 0.01 * torch.rand(()).item() + 1e-3 * abs(math.log(rate)))


@pytest.fixture(scope="module")
def with_failures() -> Suite:
    return thalweg.compare_suite([failing], ["adam", "rmsprop", "sgd"], budget="5trials", workers=1)


def test_lost_trainings_are_told_from_failed_ones(with_failures: Suite) -> None:
    row = with_failures.matrix["failing"]
    summaries = {summary.name: summary for summary in with_failures.comparisons["failing"].contenders}
    assert [row[name].text for name in ("adam", "rmsprop", "sgd")] == ["best", "lost", "failed"]
    assert row["adam"].remarks == []
    failed = summaries["sgd"].failed_trainings
    assert failed > 0
    assert (row["sgd"].failed_trainings, row["sgd"].trainings) == (failed, failed)
    assert (row["sgd"].lost, row["rmsprop"].failed_trainings) == (0, 0)
    assert row["rmsprop"].lost == row["rmsprop"].seeds > 0
    assert row["rmsprop"].remarks == [f"{row['rmsprop'].lost} of {row['rmsprop'].seeds} lost"]
    assert row["sgd"].remarks == [f"{failed} of {failed} failed"]
    assert not row["sgd"].has_value
    assert not row["rmsprop"].has_value


def test_the_error_of_failed_trainings_is_a_caution(with_failures: Suite) -> None:
    (caution,) = [text for text in with_failures.cautions if "the disk is gone" in text]
    assert caution.startswith("failing: ")
    assert "The same command tries" in caution
    assert with_failures.to_json()["cautions"] == with_failures.cautions


def test_a_suite_that_is_interrupted_names_the_tasks_to_come() -> None:
    def stop(event: thalweg.comparison.TaskProgress) -> None:
        if event.progress.done >= 3:
            raise KeyboardInterrupt

    later = thalweg.tasks.TrainingFunction(train=failing, name="later", source="later")
    with pytest.raises(ComparisonInterrupted) as interrupt:
        thalweg.compare_suite([failing, later], ["adam", "rmsprop"], budget="4trials", workers=1, watch=stop)
    suite = interrupt.value.result
    assert suite.pending == ["later"]
    assert not suite.is_finished
    assert suite.cautions[0] == "later has no result yet."
    assert suite.to_json()["pending"] == ["later"]
    assert suite.headline.startswith(("So far: ", "Best so far: ", "No overall result yet"))
    assert suite.how_sure.startswith("So far: ")


def test_a_value_as_bad_as_can_be_has_a_ratio_without_an_end() -> None:
    scale = ScoreScale("log", {"test": 1.0}, maximize=True)
    assert scale.excess_of(1.0, 0.0) == math.inf
    assert scale.excess_of(0.5, 0.0) == pytest.approx(math.log(2))
