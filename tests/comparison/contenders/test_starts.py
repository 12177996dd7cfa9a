"""Settings of the user's that a search tries first: whose they are, and the ranges in which they must lie."""

from typing import Any

import pytest

import thalweg
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import resolve, with_user_settings
from thalweg.errors import SettingError, UnknownNameError
from thalweg.rules import Adam, Range


def starts_of(contenders: Any, *texts: str) -> dict[str, list[dict[str, float]]]:
    named = with_user_settings(resolve(contenders), texts)
    return {contender.name: [dict(settings) for settings in contender.user_settings] for contender in named}


@pytest.mark.parametrize(
    ("contender", "start", "message"),
    [
        ("adam:lr=1e-4..1e-2", "adam:lr=0.5", r"lr must lie in its range, 0.0001 to 0.01, to start a search, got 0.5"),
        ("adam:lr=1e-4..1e-2", "adam:lr=1e-5", r"got 1e-05. Widen the range \(--with, contenders= in Python\)"),
        ("adam:lr=1e-4..1e-2", "adam:lr=1e-4..1e-2:lr=0.5", r"got 0.5"),
        ("lbfgs:history_size=5..50", "lbfgs:history_size=60", r"history_size must lie in its range, 5 to 50"),
        ("muon+adamw:lr=1e-3..1e-2", "muon+adamw:lr=0.1", r"lr must lie in its range, 0.001 to 0.01"),
        ("named(d=sgd:lr=0.1..1,g=adam)", "named(d=sgd:lr=0.1..1,g=adam):d.lr=2", r"d.lr must lie in its range"),
        (Contender("mine", Adam(), ranges={"lr": Range(1e-4, 1e-2, "log")}), "mine:lr=1", r"lr must lie in its range"),
    ],
)
def test_a_start_beyond_a_range_of_the_users_is_refused(contender: Any, start: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        starts_of([contender], start)


@pytest.mark.parametrize(
    ("contender", "start", "settings"),
    [
        ("adam:lr=1e-4..1e-2", "adam:lr=1e-2", {"lr": 1e-2}),  # at its end
        ("adam:lr=1e-4..1e-2", "Adam:lr=1e-4", {"lr": 1e-4}),
        ("adam:beta2=0.95,lr=1e-4..1e-2", "adam:lr=1e-3,beta1=0.8", {"lr": 1e-3, "beta1": 0.8}),
        ("adam", "adam:lr=50", {"lr": 50.0}),  # beyond the declared range, which only says what is worth a search
        ("muon+adamw", "muon+adamw:lr=50", {"lr": 50.0}),
        ("torch.optim:NAdam:lr=1e-4..1", "torch.optim:NAdam:lr=0.1", {"lr": 0.1}),
        ("clip(sgd):max_norm=0.5", "clip(sgd):lr=0.1", {"lr": 0.1}),
    ],
)
def test_a_start_is_taken_and_needs_the_name_of_the_optimizer_alone(
    contender: str, start: str, settings: dict[str, float]
) -> None:
    assert starts_of([contender, "rmsprop"], start) == {contender: [settings], "rmsprop": []}


def test_a_start_that_may_be_for_several_contenders_is_refused_and_the_full_name_decides() -> None:
    both = ["adam:beta2=0.95", "adam:beta2=0.99", "sgd"]
    with pytest.raises(UnknownNameError, match=r"must be for one contender.* adam:beta2=0.95 and adam:beta2=0.99\."):
        starts_of(both, "adam:lr=0.1")
    assert starts_of(both, "adam:beta2=0.99:lr=0.1")["adam:beta2=0.99"] == [{"lr": 0.1}]
    assert starts_of([*both, "adam"], "adam:lr=0.1")["adam"] == [{"lr": 0.1}]


def test_the_search_tries_it_and_shows_it() -> None:
    result = thalweg.compare(
        "quadratic", ["adam:lr=1e-4..1e-2"], start=["adam:lr=0.0042"], budget="3trials", workers=1, quiet=True
    )
    assert 0.0042 in [trial.settings["lr"] for trial in result.trainings]
    assert result.to_json()["contenders"][0]["yours"] is not None
    with pytest.raises(SettingError, match="must lie in its range"):
        thalweg.compare("quadratic", ["adam:lr=1e-4..1e-2"], start=["adam:lr=0.5"], budget="3trials", quiet=True)
