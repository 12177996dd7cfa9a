"""The time of a diagnosis, on clocks of the test's own."""

import pytest

from thalweg.diagnosis.judging.clock import MAX_RUNS, MIN_S, NORMAL_BUDGET_S, Clock


class Time:
    """Two clocks that stand still until they are moved."""

    def __init__(self, budget_s: float) -> None:
        self.wall = self.processor = 0.0
        self.clock = Clock(budget_s, lambda: self.wall, lambda: self.processor)

    def run(self, wall: float, processor: float) -> None:
        with self.clock.timing_run():
            self.wall += wall
            self.processor += processor


def test_a_budget_is_a_time_by_the_wall() -> None:
    time = Time(10.0)
    time.run(2.0, 0.1)
    assert time.clock.pays_for(4.0)
    assert not time.clock.pays_for(4.1)


@pytest.mark.parametrize(("budget_s", "factor"), [(1.0, 1), (NORMAL_BUDGET_S, 1), (NORMAL_BUDGET_S * 3, 3)])
def test_a_diagnosis_takes_so_many_times_the_trainings_own_duration(budget_s: float, factor: int) -> None:
    time = Time(budget_s)
    time.run(0.0, 1.0)
    time.clock.own_s = 1.0
    assert time.clock.pays_for(factor * MAX_RUNS - 1.0)
    assert not time.clock.pays_for(factor * MAX_RUNS - 0.9)


@pytest.mark.parametrize(("budget_s", "factor"), [(NORMAL_BUDGET_S, 1), (NORMAL_BUDGET_S * 10, 10)])
def test_a_training_of_no_time_may_be_diagnosed_in_some_seconds(budget_s: float, factor: int) -> None:
    time = Time(budget_s)
    time.run(0.0, 0.5)
    time.clock.own_s = 1e-3
    assert time.clock.pays_for((factor * MIN_S - 0.5) / 0.5)
    assert not time.clock.pays_for((factor * MIN_S - 0.5) / 0.5 + 0.1)


def test_the_median_run_counts() -> None:
    time = Time(100.0)
    for seconds in (1.0, 1.0, 50.0):
        time.run(seconds, 0.0)
    assert time.clock.pays_for(48.0)


def test_a_run_that_fails_counts() -> None:
    time = Time(10.0)
    with pytest.raises(KeyError), time.clock.timing_run():
        time.wall += 4.0
        raise KeyError
    assert not time.clock.pays_for(2.0)


def test_before_the_first_run_there_is_time() -> None:
    assert Time(1.0).clock.pays_for(100.0)


def test_a_watched_run_is_no_measure_of_others() -> None:
    time = Time(NORMAL_BUDGET_S)
    with time.clock.timing_run(is_watched=True):
        time.processor += 100.0
    time.clock.own_s = 1.0
    assert time.clock.pays_for(7.5)
    time.run(0.0, 1.0)
    assert not time.clock.pays_for(1.0)


def test_the_first_replay_must_fit_into_the_budget() -> None:
    time = Time(10.0)
    with time.clock.timing_run(is_watched=True):
        time.wall += 6.0
    assert not time.clock.pays_for(1.0)
