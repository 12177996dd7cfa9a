"""The clock of a comparison, and the time left that its progress shows."""

import itertools
import subprocess
import sys
from typing import Any

import pytest

import thalweg
from cases.training_functions import minimized
from tests.comparison.fake_time import FakeTime, training
from thalweg.comparison import Progress
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.results.records import TrialRecord

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
