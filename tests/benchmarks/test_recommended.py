"""The choice of a setting to recommend, from regrets that are known by hand."""

import numpy as np
import pytest

from benchmarks.tuning import recommended
from benchmarks.tuning.recommended import choose, draw, evaluate, nearest, scores
from thalweg.comparison.contenders.parsing import parse

# Settings 0 to 2 are each other's nearest, and so are 3 to 5.
NEAR = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1], [3, 4, 5], [4, 5, 3], [5, 3, 4]])


def test_a_plateau_wins_and_not_a_lucky_point() -> None:
    regrets = np.array([[0.0, 2.0, 2.0, 0.5, 0.4, 0.6], [0.0, 2.0, 2.0, 0.5, 0.4, 0.6]])
    assert choose(regrets, NEAR) == 4


def test_of_equal_plateaus_the_best_setting_is_taken_whatever_their_order() -> None:
    """The sums of 0.1, 0.2 and 0.3 in two orders differ in their last digit."""
    regrets = np.array([[0.3, 0.2, 0.1, 9.0, 9.0, 9.0]])
    assert np.unique(regrets.mean(0)[NEAR].mean(1)[:3]).size > 1
    assert choose(regrets, NEAR) == 2


def test_the_mean_over_tasks_decides_and_a_task_is_left_out_of_its_own_estimate() -> None:
    contender = parse("sgd")
    settings = draw(contender, 8)
    assert settings[-1] == {"lr": 0.001}  # the library default
    order = np.argsort([setting["lr"] for setting in settings])
    places = np.arange(len(settings))  # in the order of the learning rates
    valley = np.where(np.abs(places - 5) <= 1, 0.0, 3.0)
    distant = np.where(places == 0, 0.0, np.where(np.abs(places - 5) <= 1, 1.0, 2.0))
    tables = {"first": valley, "second": valley + 7.0, "third": distant}
    scores = {task: [float(values[place]) for place in np.argsort(order)] for task, values in tables.items()}
    result = evaluate(contender, settings, scores)
    rates = [settings[place]["lr"] for place in order]
    assert result["recommended"]["lr"] in rates[4:7]
    assert result["factor_by_task"]["third"]["recommended"] == np.exp(1.0)
    assert result["factor_by_task"]["second"]["recommended"] == 1.0  # beside the best of this task
    assert result["factor_by_task"]["third"]["chosen_without"]["lr"] in rates[4:7]
    assert result["mean_factor"]["recommended"] == np.exp(1.0 / 3)
    assert nearest(contender, settings).shape == (9, 3)


def test_a_length_is_a_share_of_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [{"lr": 0.1}]
    monkeypatch.setitem(recommended.TASKS, "diabetes", 8)
    whole, quarter = (scores("diabetes", length, "sgd", settings)[0] for length in (1.0, 0.25))
    monkeypatch.setitem(recommended.TASKS, "diabetes", 2)
    assert scores("diabetes", 1.0, "sgd", settings)[0] == quarter != whole
    assert scores("diabetes", 0.01, "sgd", settings)[0] not in (quarter, whole)  # one pass at least


def test_a_task_is_left_out_at_all_of_its_lengths() -> None:
    """On one task the largest rates are best, at both lengths; on the others the smallest. It has no say there."""
    contender = parse("sgd")
    settings = draw(contender, 8)
    places = np.argsort(np.argsort([setting["lr"] for setting in settings]))
    large, small = [float(8 - place) for place in places], [float(place) / 8 for place in places]
    result = evaluate(contender, settings, {"digits": large, "digits, 0.25 of the passes": large, "patches": small})
    rates = sorted(setting["lr"] for setting in settings)
    for title in ("digits", "digits, 0.25 of the passes"):
        assert result["factor_by_task"][title]["chosen_without"]["lr"] in rates[:3]
    assert result["factor_by_task"]["patches"]["chosen_without"]["lr"] in rates[-3:]
