"""Budgets are used and kept, whatever a training takes, and every interruption has an answer. The clock is made up."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import nn

import thalweg
from cases.training_functions import minimized
from thalweg.comparison import Progress, Store, session
from thalweg.comparison.execution.job import Job
from thalweg.comparison.planning import clock as clocks
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training import trainer
from thalweg.comparison.training.workload import Workload
from thalweg.errors import ComparisonInterrupted

CONTENDERS = ["sgd", "momentum", "adam", "rmsprop"]


class FakeTime:
    """A clock that trainings advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakePool:
    """Workers on a made-up clock: jobs side by side begin at the same time, and one past its deadline is killed."""

    time: FakeTime

    def __init__(self, workload: Workload, num_workers: int, *_: Any) -> None:
        self.workload, self.num_workers = workload, num_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, jobs: Iterable[Job], report_share: Any, deadline_s: float) -> Iterator[tuple[Job, list[Any]]]:
        waiting = iter(jobs)
        while batch := list(itertools.islice(waiting, self.num_workers)):
            start_s = last_s = self.time.now
            for job in batch:
                self.time.now = start_s
                results = self.workload.train(job.contenders, job.trials, job.schedule, stop_at_s=job.stop_at_s)
                killed, last_s = self.time.now > deadline_s, max(last_s, min(self.time.now, deadline_s))
                if not killed:
                    yield job, results
            self.time.now = last_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clocks, "monotonic", fake.read)
    monkeypatch.setattr(trainer, "monotonic", fake.read)
    monkeypatch.setattr(FakePool, "time", fake, raising=False)
    monkeypatch.setattr(session, "WorkerPool", FakePool)
    return fake


def training(
    time: FakeTime, seconds: float | Callable[[int], float], *, reports: int = 5, stop: int = 0
) -> Callable[..., None]:
    """Return a training function that takes so long, always or by its number; the one of ``stop`` is Ctrl-C."""
    numbers = itertools.count(1)

    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        number = next(numbers)
        if number == stop:
            raise KeyboardInterrupt
        weight = nn.Parameter(torch.tensor([1.0, 3.0]) + 0.1 * torch.rand(2))
        optimizer = make_optimizer([weight])
        for _ in range(reports):
            optimizer.zero_grad()
            (0.5 * weight.square().sum() + 0.01).backward()
            optimizer.step()
            time.advance((seconds(number) if callable(seconds) else seconds) / reports)
            report((0.5 * weight.square().sum() + 0.01).item())

    train.calls = numbers  # type: ignore[attr-defined]
    return train


def trials_of(comparison: thalweg.Comparison) -> list[TrialRecord]:
    return comparison.store.trials(comparison.record.id)


def facts(comparison: thalweg.Comparison) -> tuple[Any, list[Any]]:
    """Return the verdict and the trainings with their results, without times."""
    trials = [(trial.key, trial.settings, trial.result.validation) for trial in trials_of(comparison)]
    return vars(comparison.verdict), sorted(trials, key=lambda trial: trial[0])


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
    assert comparison.to_json()["contenders"][0]["value"] is None
    assert comparison.cautions is not None


def test_without_any_report_nothing_is_known_and_the_time_is_kept(time: FakeTime) -> None:
    start_s = time.now
    comparison = thalweg.compare(training(time, 600.0, reports=1), CONTENDERS, budget="60s", workers=1)
    assert time.now - start_s <= 1.05 * 60
    assert (comparison.verdict.settled, comparison.verdict.recommended) == ("unended", None)
    assert comparison.verdict.headline == "Nothing is known yet."
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


# --- interruptions ----------------------------------------------------------------------------------------------------


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


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_says_the_time_left_and_the_leader_and_its_total_does_not_grow(time: FakeTime) -> None:
    for budget in ("30s", "6trials", "2x4trials"):
        reports: list[Progress] = []
        thalweg.compare(training(time, 1.0), ["sgd", "adam"], budget=budget, workers=1, watch=reports.append)
        trained = [report for report in reports if not report.message]
        for before, after in itertools.pairwise(trained):
            assert after.done >= before.done
            assert after.share >= before.share
            assert after.elapsed_s >= before.elapsed_s
            assert after.total <= before.total or before.total == 0
        last = trained[-1]
        assert last.leader in ("sgd", "adam")
        assert 0 < last.best < 5
        assert 0.8 <= last.share <= 1.0 or budget == "2x4trials"  # a race may end early
        if budget == "30s":
            assert (last.left_s is not None, last.total) == (True, 0)
            assert last.elapsed_s == pytest.approx(30, abs=2)
        else:
            assert (last.left_s, last.done <= last.total) == (None, True)


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_clock_counts_all_sessions_and_reserves_a_little() -> None:
    now = [50.0]
    clock = Clock(10.0, earlier_s=4.0, read=lambda: now[0])
    now[0] = 52.0
    assert (clock.elapsed_s, clock.share) == (6.0, 0.6)
    assert clock.left_s == pytest.approx(10 - 0.2 - 6)
    assert clock.stop_at_s == pytest.approx(50 - 4 + 10)  # the reserve is as long as the overtime
    now[0] = 100.0
    assert (clock.left_s, clock.share) == (0.0, 1.0)
    unlimited = Clock(None, read=lambda: now[0])
    assert (unlimited.left_s, unlimited.share, unlimited.stop_at_s) == (None, 0.0, float("inf"))
    long = Clock(3600.0, read=lambda: 0.0)
    assert long.trainings_s == 3598.0


_FIRST_COMPARISON = """
import sys
from thalweg.comparison import comparison

class Clock(comparison.Clock):
    def __post_init__(self):
        super().__post_init__()
        self.known = set(sys.modules)
        clocks.append(self)

clocks = []
comparison.Clock = Clock
comparison.compare("quadratic", ["gd"], budget="1trials", workers=1, quiet=True)
print(sorted(name for name in sys.modules if name.startswith("torch._dynamo") and name not in clocks[0].known))
print("torch._dynamo" in clocks[0].known)
"""


def test_the_time_of_a_first_comparison_begins_after_what_torch_imports_late() -> None:
    done = subprocess.run([sys.executable, "-c", _FIRST_COMPARISON], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True"]


def test_a_study_of_every_contender_comes_before_the_next_study_of_any() -> None:
    """So a budget that ends during the studies has left no contender out."""

    def train(make_optimizer: Any, report: Any) -> None:
        report(minimized(make_optimizer))

    seen: list[TrialRecord] = []
    thalweg.compare(train, ["sgd", "adam"], budget="3x4trials", workers=1, quiet=True, callbacks=[seen.append])
    searched = [(trial.study, trial.contender) for trial in seen if trial.stage == "search" and trial.trial >= 0]
    order = list(dict.fromkeys(searched))
    assert order == [(study, name) for study in range(3) for name in ("sgd", "adam")]
