"""Every interruption of a comparison has an answer, and the same call resumes. The clock is made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import thalweg
from tests.comparison.fake_time import CONTENDERS, FakeTime, facts, training, trials_of
from thalweg.comparison import Store
from thalweg.errors import ComparisonInterrupted


@pytest.mark.parametrize("stop", [1, 2, 4, 5, 6, 13, 19, 22, 24])
def test_an_interrupted_count_has_an_answer_and_resumes_to_the_same_verdict(
    time: FakeTime, tmp_path: Path, stop: int
) -> None:
    whole = thalweg.compare(training(time, 1.0), CONTENDERS, budget="6trials", workers=1)
    store = Store(tmp_path / "store.sqlite")
    arguments: dict[str, Any] = {"budget": "6trials", "workers": 1, "store": store}
    with pytest.raises(ComparisonInterrupted, match="Run the same call again to resume") as interrupt:
        thalweg.compare(training(time, 1.0, stop=stop), CONTENDERS, **arguments)
    so_far = interrupt.value.result
    assert (so_far is None) == (stop == 1)
    if so_far is not None:
        assert so_far.verdict.headline == f"Interrupted; best so far: {so_far.verdict.recommended}."
        assert so_far.verdict.text.startswith(
            f"Interrupted after {stop - 1} training{'s' if stop > 2 else ''}; the same command resumes. So far: "
        )
        assert len(trials_of(so_far)) == stop - 1
        assert so_far.code
    before = {trial.key for trial in store.trials(1)} if so_far is not None else set()
    resumed = thalweg.compare(training(time, 1.0), CONTENDERS, **arguments)
    assert facts(resumed) == facts(whole)
    assert before <= {trial.key for trial in trials_of(resumed)}
    assert resumed.record.finished is not None


def test_an_interrupted_comparison_in_the_memory_does_not_promise_to_be_resumed(time: FakeTime) -> None:
    with pytest.raises(ComparisonInterrupted, match="It was not stored") as interrupt:
        thalweg.compare(training(time, 1.0, stop=5), CONTENDERS, budget="6trials", workers=1)
    assert interrupt.value.result.verdict.text.startswith("Interrupted after 4 trainings. So far: ")


@pytest.mark.parametrize("stop", [2, 9, 31, 44])
def test_an_interrupted_time_goes_on_with_what_was_left(time: FakeTime, tmp_path: Path, stop: int) -> None:
    store = Store(tmp_path / "store.sqlite")
    arguments: dict[str, Any] = {"budget": "60s", "workers": 1, "store": store}
    start_s = time.now
    with pytest.raises(ComparisonInterrupted) as interrupt:
        thalweg.compare(training(time, 1.0, stop=stop), CONTENDERS, **arguments)
    so_far = interrupt.value.result
    before = store.find()
    assert before is not None
    used_s = time.now - start_s
    assert used_s == pytest.approx(stop - 1)
    decided = {trial.key: trial.settings for trial in trials_of(so_far)}
    time.advance(10_000.0)  # the time between sessions is free
    start_s = time.now
    resumed = thalweg.compare(training(time, 1.0), CONTENDERS, **arguments)
    assert 0.85 * 60 <= used_s + time.now - start_s <= 1.05 * 60
    after = store.find()
    assert after is not None
    assert replace(after.plan, design=before.plan.design) == before.plan
    if stop > 1 + len(CONTENDERS):  # the starting points are the measurement that the design follows
        assert after.plan.design == before.plan.design
    stored = {trial.key: trial.settings for trial in trials_of(resumed)}
    assert decided.items() <= stored.items()
    # One search, without gaps or repetitions: numbers of proposals are those of a search that was not interrupted.
    numbers = sorted(trial.trial for trial in trials_of(resumed) if trial.stage == "search" and trial.trial >= 0)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_an_interrupted_ranking_answers_which_setting_to_use(time: FakeTime, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"budget": "2x4trials", "workers": 1, "store": Store(tmp_path / "store.sqlite")}
    whole = thalweg.compare(training(time, 1.0), ["sgd", "adam"], budget="2x4trials", workers=1)
    with pytest.raises(ComparisonInterrupted) as interrupt:
        thalweg.compare(training(time, 1.0, stop=15), ["sgd", "adam"], **arguments)
    so_far = interrupt.value.result
    assert so_far.verdict.headline == f"Interrupted; best so far: {so_far.verdict.recommended}."
    assert so_far.verdict.ranked is None
    resumed = thalweg.compare(training(time, 1.0), ["sgd", "adam"], **arguments)
    assert facts(resumed) == facts(whole)
    assert resumed.verdict.ranked is not None


def test_an_interrupted_suite_keeps_its_tasks_and_the_best_answer_so_far(time: FakeTime, tmp_path: Path) -> None:
    tasks = [
        thalweg.tasks.TrainingFunction(train=training(time, 1.0), name="whole"),
        thalweg.tasks.TrainingFunction(train=training(time, 1.0, stop=5), name="interrupted"),
        thalweg.tasks.TrainingFunction(train=training(time, 1.0), name="never begun"),
    ]
    with pytest.raises(ComparisonInterrupted) as interrupt:
        thalweg.compare_suite(tasks, ["sgd", "adam"], budget="4trials", workers=1, store=tmp_path)
    suite = interrupt.value.result
    assert list(suite.comparisons) == ["whole", "interrupted"]
    assert suite.comparisons["interrupted"].record.finished is None
    assert set(suite.matrix["interrupted"]) == {"sgd", "adam"}
    assert suite.text
    assert suite.to_json()["tasks"]["interrupted"]["trainings"] == 4
