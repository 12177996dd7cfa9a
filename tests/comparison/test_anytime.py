"""Budgets are used and kept, whatever a training takes. The clock is made up."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.fake_time import CONTENDERS, FakeTime, facts, training, trials_of
from thalweg.comparison.protocol.design import SettingDesign

# --- a time is used and kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "workers"),
    [
        (0.9, 1),
        (3.0, 2),
        pytest.param(lambda number: 6.0 if number <= 2 else 1.2, 2, id="a cold start"),
        pytest.param(lambda number: 0.9 if number <= 20 else 3.0, 1, id="slower later"),
        pytest.param(lambda number: 4.0 if number <= 4 else 1.0, 1, id="faster later"),
        pytest.param(lambda number: 0.8 + 0.8 * (number % 3), 2, id="uneven"),
    ],
)
def test_a_time_is_used_and_kept(time: FakeTime, seconds: Any, workers: int) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, seconds), CONTENDERS, budget="60s", workers=workers)
    assert 0.85 * 60 <= time.now - start_s <= 1.05 * 60
    assert comparison.verdict.recommended is not None
    assert {trial.result.status for trial in trials_of(comparison)} <= {"ok", "pruned"}
    assert comparison.store.elapsed_s(comparison.record.id) == pytest.approx(time.now - start_s)


def test_a_budget_of_a_few_trainings_searches_and_says_how_little_that_shows(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 5.0), CONTENDERS, budget="20s", workers=1)
    assert 0.7 * 20 <= time.now - start_s <= 1.05 * 20  # a fifth training would not fit
    assert Counter(trial.stage for trial in trials_of(comparison)) == {"search": 3}
    verdict = comparison.verdict
    assert (verdict.settled, verdict.headline) == ("unraced", f"Best so far: {verdict.recommended}.")
    assert "(1 training, the best of 3, so it is too good)" in verdict.text
    assert "the budget did not suffice to show a difference" in verdict.text
    assert "No training of" in verdict.text  # of the fourth contender
    assert "--budget 8x24trials" in verdict.ranking_text
    assert "Only 3 settings were searched, of all contenders together." in " ".join(comparison.cautions)
    assert len(comparison.contenders) == 4
    assert comparison.code


def test_a_training_that_would_not_end_in_time_is_not_begun(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 7.0), CONTENDERS, budget="20s", workers=2)
    assert time.now - start_s == pytest.approx(14.0)  # two rounds; half of a third one would only be stopped
    assert len(trials_of(comparison)) in (3, 4)


def test_a_training_longer_than_the_budget_gives_an_answer_from_its_reports(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 600.0, reports=600), CONTENDERS, budget="60s", workers=1)
    assert 0.85 * 60 <= time.now - start_s <= 1.05 * 60
    trials = trials_of(comparison)
    assert {trial.contender: trial.result.status for trial in trials} == dict.fromkeys(CONTENDERS, "stopped")
    first, *others = sorted(trials, key=lambda trial: -len(trial.result.evaluations))
    assert 28 <= len(first.result.evaluations) <= 31  # half of the time, a report each second
    step = min(len(trial.result.evaluations) for trial in others)
    assert 8 <= step <= 11  # a sixth each
    at_step = {trial.contender: trial.result.evaluations[step - 1].validation for trial in trials}
    leader = min(at_step, key=lambda name: at_step[name])
    verdict = comparison.verdict
    assert (verdict.settled, verdict.recommended, verdict.tied[0]) == ("unended", leader, leader)
    assert verdict.headline == f"No training has ended; {leader} was ahead."
    assert (
        f"No training has ended within 60 s, so no final value is known. At report {step}, {leader} was" in verdict.text
    )
    assert comparison.contenders[0].line == comparison.code
    assert comparison.parts.missing == []
    assert comparison.to_json()["contenders"][0]["value"] is None
    assert comparison.cautions is not None


def test_without_any_report_nothing_is_known_and_the_time_is_kept(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 600.0, reports=1), CONTENDERS, budget="60s", workers=1)
    assert time.now - start_s <= 1.05 * 60
    assert (comparison.verdict.settled, comparison.verdict.recommended) == ("unended", None)
    assert comparison.verdict.headline == "Nothing is known yet."
    assert [part.name for part in comparison.parts.missing] == ["a result"]
    assert comparison.code == ""
    assert [summary.name for summary in comparison.contenders] == CONTENDERS


def test_a_task_longer_than_the_budget_is_stopped_at_a_step(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        time.advance(0.5)
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    task = thalweg.Task(
        model=lambda: nn.Linear(1, 1), loss=loss, data=thalweg.Splits((x, x), (x, x), (x, x)), passes=2000
    )
    monkeypatch.setattr("thalweg.comparison.training.timing.time.perf_counter", time.read)
    start_s = time.now
    comparison = thalweg.compare(task, ["sgd", "adam"], budget="60s", workers=1, device="cpu")
    assert 0.85 * 60 <= time.now - start_s <= 1.06 * 60
    assert {trial.result.status for trial in trials_of(comparison)} == {"stopped"}
    assert comparison.verdict.settled == "unended"
    assert "of 4000, " in comparison.verdict.text


def stages_of(comparison: thalweg.Comparison) -> Counter[str]:
    return Counter(trial.stage for trial in trials_of(comparison))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cold_s", [0.9, 1.8])
def test_a_cold_first_training_does_not_end_the_search(time: FakeTime, workers: int, cold_s: float) -> None:
    start_s = time.now
    cold = training(time, lambda number: cold_s if number <= workers else 0.01)
    comparison = thalweg.compare(cold, ["sgd", "adam"], budget="4s", workers=workers)
    assert 0.85 * 4 <= time.now - start_s <= 1.05 * 4
    trainings, stages = len(trials_of(comparison)), stages_of(comparison)
    assert trainings >= 100 * workers
    assert stages["search"] >= 0.4 * trainings
    assert stages["final"] > 0
    assert stages["race"] > 0
    assert comparison.plan.design == SettingDesign.for_trainings(trainings, 2)


@pytest.mark.parametrize("slow", [range(8, 14), range(45, 51)], ids=["early", "late"])
def test_a_search_that_a_slow_moment_ends_begins_again(time: FakeTime, slow: range) -> None:
    start_s = time.now
    uneven = training(time, lambda number: 1.2 if number in slow else 0.05)
    comparison = thalweg.compare(uneven, CONTENDERS, budget="20s", workers=1)
    assert 0.85 * 20 <= time.now - start_s <= 1.05 * 20
    trainings, stages = len(trials_of(comparison)), stages_of(comparison)
    assert trainings >= 200
    assert stages["search"] >= 0.7 * trainings
    assert stages["value"] <= 0.15 * trainings  # the time that is left over goes to the search, not to further seeds
    assert comparison.verdict.settled != "unraced"


# --- a ranking --------------------------------------------------------------------------------------------------------


def test_a_long_time_ranks_the_optimizers_and_is_used_and_kept(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 0.14), ["sgd", "adam"], budget="60s", workers=1)
    assert 0.85 * 60 <= time.now - start_s <= 1.05 * 60
    assert comparison.plan.ranking is not None
    assert isinstance(comparison.plan.design, SettingDesign)
    assert comparison.verdict.ranked is not None
    assert "independent studies" in comparison.verdict.ranking_text
    assert comparison.verdict.settled in ("best", "within", "open")
    assert all(summary.rank is not None for summary in comparison.contenders)


def test_a_ranking_that_is_cut_short_by_the_time_becomes_a_search_and_says_so(time: FakeTime) -> None:
    start_s = time.now
    slow = training(time, lambda number: 0.1 if number <= 2 else 0.6)
    comparison = thalweg.compare(slow, ["sgd", "adam"], budget="60s", workers=1)
    assert 0.85 * 60 <= time.now - start_s <= 1.05 * 60
    assert (comparison.verdict.ranked, comparison.findings.ranking) == (None, None)
    assert comparison.verdict.ranking_text.startswith("Optimizers were not ranked: the time was over before")
    assert comparison.verdict.recommended is not None
    searched = [trial for trial in trials_of(comparison) if trial.stage == "search" and trial.study == -1]
    assert len(searched) >= 10


# --- counted budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_budget_in_trials_counts_all_trainings_and_repeats(time: FakeTime, workers: int) -> None:
    first, second = (
        thalweg.compare(training(time, 1.0 + 9.0 * k), CONTENDERS, budget="6trials", workers=workers) for k in (0, 1)
    )
    assert len(trials_of(first)) == 6 * len(CONTENDERS)
    assert facts(first) == facts(second)  # however long the trainings take
    other = thalweg.compare(training(time, 1.0), CONTENDERS, budget="6trials", workers=workers, seed=1)
    assert facts(first) != facts(other)


def test_budgets_in_steps_and_passes_count_trainings_of_a_task(time: FakeTime) -> None:
    for budget, trainings in (("1000steps", 10), ("250passes", 10)):
        task = thalweg.tasks.load("quadratic")
        comparison = thalweg.compare(
            thalweg.Task(model=task.model, loss=task.loss, data=task.data, passes=50, optimum=0.0, name="bowl"),
            ["sgd", "adam"],
            budget=budget if "passes" in budget else "250steps",
            workers=1,
            device="cpu",
        )
        assert len(trials_of(comparison)) == trainings
