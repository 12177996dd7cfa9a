"""A whole comparison, and what happens when it is interrupted."""

import dataclasses
import itertools
import json
import math
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.cli.main import cli
from thalweg.comparison import Progress, Store
from thalweg.errors import BudgetError, SettingError, StoreError, TaskError


def by_name(found: thalweg.Comparison) -> dict:
    return {one["name"]: one for one in found.to_json()["contenders"]}


def without_times(found: dict) -> dict:
    """What must be the same for the same seed."""
    text = json.dumps(found)
    kept = json.loads(text)
    for one in kept["contenders"]:
        del one["seconds"], one["way"], one["update_seconds"]
    kept.pop("report", None)
    return kept


def test_linear_regression_comes_within_a_percent_of_the_optimum() -> None:
    found = thalweg.compare("linear-regression", "gd,sgd,momentum,adagrad,rmsprop,adam", budget="16trials")
    optimum = found.to_json()["optimum"]
    for one in found.to_json()["contenders"]:
        assert one["train_loss"] <= 1.01 * optimum, one["name"]
    assert set(found.verdict.tied) == set(by_name(found))
    assert found.verdict.recommended in ("gd", "sgd")


def test_the_result_has_the_promised_keys_and_is_plain_json() -> None:
    found = thalweg.compare("quadratic", ["gd", "adam"], budget="4trials").to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.keys() >= {"task", "optimum", "contenders", "verdict"}
    for one in found["contenders"]:
        promised = {"name", "settings", "value", "low", "high", "train_loss", "seeds", "diverged", "seconds", "bytes"}
        assert one.keys() >= promised
        assert one["low"] <= one["value"] <= one["high"]
    assert found["verdict"].keys() >= {"best", "tied", "recommended", "text"}
    assert found["optimum"] == 0.0


def test_every_contender_has_the_same_budget_and_the_same_fresh_seeds() -> None:
    found = thalweg.compare("quadratic", ["gd", "adam"], budget="10trials")
    entries = found.store.entries(1)
    counts = {}
    for one in entries:
        counts[one.contender, one.stage] = counts.get((one.contender, one.stage), 0) + 1
    stages = ("search", "retrain", "race", "value")
    for stage in stages[:3]:
        assert counts["gd", stage] == counts["adam", stage] > 0
    seeds = {stage: {one.seed for one in entries if one.stage == stage} for stage in stages}
    assert all(not seeds[one] & seeds[other] for one, other in itertools.combinations(stages, 2))
    assert {one.seed for one in entries if (one.contender, one.stage) == ("gd", "race")} == seeds["race"]


def test_the_chosen_settings_are_the_best_of_the_retrained_on_what_selects() -> None:
    found = thalweg.compare("digits", ["sgd"], budget="10trials")
    entries = found.contenders[0].entries
    searched = sorted((one.result.validation, one.trial) for one in entries["search"])
    assert {one.trial for one in entries["retrain"]} == {trial for _, trial in searched[:2]}
    means = {}
    for trial in {one.trial for one in entries["retrain"]}:
        losses = [one.result.validation for one in entries["retrain"] if one.trial == trial]
        means[trial] = sum(map(math.log, losses))
    assert {one.trial for one in entries["race"]} == {min(means, key=means.get)}


def test_the_same_seed_gives_the_same_verdict_and_another_seed_another_result() -> None:
    first, second, other = (
        thalweg.compare("quadratic", ["gd", "adam"], budget="8trials", seed=seed).to_json() for seed in (1, 1, 2)
    )
    assert without_times(first) == without_times(second)
    assert without_times(first) != without_times(other)


def test_progress_is_told_from_the_pilot_to_the_end() -> None:
    told: list[Progress] = []
    fixed = thalweg.Contender("fixed", thalweg.rules.SGD(lr=0.1), pinned=frozenset({"lr", "momentum", "weight_decay"}))
    thalweg.compare("quadratic", ["gd", fixed], budget="8trials", watch=told.append)
    assert [one.contender for one in told[:2]] == ["gd", "fixed"]
    assert {one.stage for one in told} == {"pilot", "search", "retrain", "race", "value", "start"}
    trained = [one for one in told if one.stage != "pilot"]
    assert all(a.done <= b.done for a, b in itertools.pairwise(trained))
    assert trained[-1].done == (8 + 4 + 5 + 5) + (1 + 2 + 5 + 5) + 5 + 5  # nothing to search is searched once
    assert trained[-1].done <= trained[-1].total


def test_settings_that_need_other_programs_are_trained_in_other_populations() -> None:
    """`rules.SGD()` starts without momentum, and the search opens it: two programs, and no training fails over it."""
    found = thalweg.compare("quadratic", [thalweg.rules.SGD()], budget="12trials")
    momenta = [one.settings["momentum"] for one in found.contenders[0].entries["search"]]
    assert momenta[0] == 0
    assert all(momenta[1:])
    assert all(one.result.status != "failed" for one in found.contenders[0].entries["search"])


COMMAND = ["compare", "breast-cancer", "--with", "sgd,adam", "--budget", "3x12trials", "--workers", "1"]


def rows(store: Path) -> list[tuple]:
    """Every stored result with the seconds it took: a training that was repeated would take others."""
    if not store.exists():
        return []
    with sqlite3.connect(store) as connection:
        try:
            return connection.execute("SELECT contender, stage, study, trial, seed, seconds FROM results").fetchall()
        except sqlite3.OperationalError:
            return []


def run(out: Path) -> dict:
    done = CliRunner().invoke(cli, [*COMMAND, "--out", str(out), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_a_killed_comparison_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    killed, store = tmp_path / "killed", tmp_path / "killed" / "store.sqlite"
    for share in (1, 60):
        command = [sys.executable, "-m", "thalweg", *COMMAND, "--out", str(killed)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 900
            while len(rows(store)) < share and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            ended = process.poll() is not None
            process.kill()
        assert not ended, "it ended before it could be killed"
    before = rows(store)
    assert before
    resumed = run(killed)
    after = rows(store)
    assert set(before) <= set(after)
    assert len({row[:5] for row in after}) == len(after)
    # Uninterrupted, by the same stored plan: on a busy machine another pilot may choose other ways.
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(store, whole)
    with sqlite3.connect(whole / store.name) as connection:
        connection.execute("DELETE FROM results")
        connection.execute("UPDATE comparisons SET finished = NULL")
    assert without_times(resumed) == without_times(run(whole))
    assert [row[:5] for row in sorted(rows(whole / store.name))] == [row[:5] for row in sorted(after)]


def test_a_finished_comparison_is_shown_and_not_run_again(tmp_path: Path) -> None:
    arguments = {"budget": "4trials", "store": tmp_path / "store.sqlite"}
    first = thalweg.compare("quadratic", ["gd"], **arguments)
    told: list[Progress] = []
    again = thalweg.compare("quadratic", ["gd"], **arguments, watch=told.append)
    assert told == []
    assert again.to_json() == first.to_json()


def test_a_comparison_may_run_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(thalweg.compare, "quadratic", ["gd"], budget="1trial").result()
    assert found.verdict.best == "gd"


def test_a_file_that_draws_its_data_without_a_seed_is_the_same_task_each_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy, torch, thalweg\nfrom torch import nn\nx = torch.randn(50, 1)\n"
        "def model():\n    made = nn.Linear(1, 1)\n    made.weight.data.fill_(numpy.random.rand())\n    return made\n"
        "task = thalweg.Task(model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x), passes=1)\n"
    )
    store = Store(tmp_path / "store.sqlite")
    first, second = (thalweg.compare(f"{path}:task", ["gd"], budget="1trial", store=store) for _ in range(2))
    assert first.header.id == second.header.id


def test_a_coarse_search_and_an_edge_are_cautioned_about() -> None:
    narrow = thalweg.Contender("sgd", thalweg.rules.SGD(lr=1e-4), pinned=frozenset({"momentum"}))
    found = thalweg.compare("quadratic", [narrow], budget="1trial")
    assert found.cautions == [
        "Few settings were searched (1 for each contender, the learning rate alone), so they lie far apart: "
        "a larger budget may change who is best.",
        "The best lr of sgd lies at an end of the range searched: a better one may lie beyond.",
    ]
    assert thalweg.compare("quadratic", ["momentum"], budget="24trials").cautions == []


def test_a_second_rule_that_never_ran_is_cautioned_about() -> None:
    found = thalweg.compare("linear-regression", ["then(adam,sgd):switch_at=100000"], budget="1trial")
    said = " ".join(found.cautions)
    assert "goes on to its second rule after step 100000, and trainings end at" in said
    assert "that never ran. Give a step, as switch_at=" in said


def test_a_stated_optimum_that_is_beaten_is_cautioned_about() -> None:
    task = dataclasses.replace(thalweg.tasks.load("quadratic"), optimum=5.0)
    assert "is below the optimum that the task states, 5." in " ".join(
        thalweg.compare(task, ["adam"], budget="8trials").cautions
    )


def test_what_always_failed_is_not_remembered(tmp_path: Path) -> None:
    weights = tmp_path / "weights.txt"

    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(float(weights.read_text()))

    arguments = {"budget": "2trials", "store": tmp_path}  # a folder is taken for the store in it
    with pytest.raises(TaskError, match="FileNotFoundError"):
        thalweg.compare(train, ["sgd"], **arguments)
    weights.write_text("0.5")
    assert thalweg.compare(train, ["sgd"], **arguments).contenders[0].value.mean == pytest.approx(0.5)
    assert (tmp_path / "store.sqlite").exists()


def test_by_default_only_those_compete_that_can() -> None:
    x = torch.randn(40, 1)
    loader = DataLoader(TensorDataset(x, x), batch_size=8)
    task = thalweg.Task(
        model=lambda: nn.Linear(1, 1),
        loss=thalweg.supervised(nn.functional.mse_loss),
        data=thalweg.Splits(loader, loader, loader),
        passes=1,
    )
    names = set(by_name(thalweg.compare(task, budget="1trial")))
    assert names == {"sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw"}


def test_where_the_optimum_is_known_decay_does_not_pull_away_from_it() -> None:
    found = thalweg.compare("linear-regression", ["adamw"], budget="4trials")
    assert found.contenders[0].settings["weight_decay"] == 0
    assert found.contenders[0].line.endswith("weight_decay=0.0)")


def test_what_changes_the_results_is_another_comparison(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")

    def task(
        width: int = 4, scale: float = 1.0, activation: type = nn.ReLU, loss=nn.functional.mse_loss, load: int = 0
    ) -> thalweg.Task:
        x = scale * torch.linspace(0, 1, 40).unsqueeze(1)
        data = (x, x)
        if load:
            data = thalweg.Splits(*(DataLoader(TensorDataset(x, x), batch_size=load) for _ in range(3)))
        return thalweg.Task(
            model=lambda: nn.Sequential(nn.Linear(1, width), activation(), nn.Linear(width, 1)),
            loss=thalweg.supervised(loss),
            data=data,
            passes=1,
        )

    calls = [
        (task(), ["gd"], {}),
        (task(width=5), ["gd"], {}),
        (task(scale=2.0), ["gd"], {}),
        (task(activation=nn.Tanh), ["gd"], {}),
        (task(loss=nn.functional.l1_loss), ["gd"], {}),
        (task(), ["sgd"], {}),
        (task(load=10), ["sgd"], {}),
        (task(load=10, scale=2.0), ["sgd"], {}),
        (task(load=20), ["sgd"], {}),
        (task(), [thalweg.Contender("sgd", thalweg.rules.SGD(), pinned=frozenset({"lr"}))], {}),
        (task(), ["gd"], {"seed": 1}),
        (task(), ["gd"], {"schedule": "constant"}),
        (task(), ["gd"], {"budget": "2trials"}),
    ]
    found = [thalweg.compare(one, who, **{"budget": "1trial", "store": store, **more}) for one, who, more in calls]
    assert len({one.header.id for one in found}) == len(calls)
    again = thalweg.compare(task(), ["gd"], budget="1trial", store=store)
    assert again.header.id == found[0].header.id


def test_an_unfinished_comparison_has_no_verdict_yet(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    header = store.create("key", task={"name": "t"}, contenders=[], plan={}, environment={})
    with pytest.raises(StoreError, match="must be finished, and is not"):
        thalweg.Comparison(store, header)


def test_a_contender_that_always_diverges_is_ranked_last_and_not_hidden() -> None:
    wild = thalweg.rules.SGD(lr=1e9)
    found = thalweg.compare("quadratic", [wild, "gd"], budget="4trials")
    assert [one.name for one in found.contenders] == ["gd", "sgd:lr=1e+09"]
    worst = by_name(found)["sgd:lr=1e+09"]
    assert (worst["value"], worst["diverged"]) == (None, 5)
    assert found.verdict.tied == ["gd"]
    assert math.isinf(found.contenders[1].value.mean)


def test_nothing_is_recommended_where_everything_diverges(tmp_path: Path) -> None:
    wild = thalweg.rules.SGD(lr=1e9)
    found = thalweg.compare("quadratic", [wild], budget="4trials")
    assert (found.verdict.best, found.code) == (None, "")
    assert "Nothing to recommend" in found.report(tmp_path / "report.html").read_text()


def test_a_function_of_the_users_is_tuned(tmp_path: Path) -> None:
    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(30):
            optimizer.zero_grad()
            loss = (weight * torch.tensor([1.0, 3.0])).square().sum()
            loss.backward()
            optimizer.step()
        report(loss.item())

    found = thalweg.compare(train, ["sgd", "adam"], budget="24trials")
    untuned = [one.result.test for one in found.contenders[0].entries["search"] if one.trial == 0]
    assert by_name(found)["sgd"]["value"] < untuned[0] / 10
    assert "LinearLR" not in found.code  # its schedule is its own
    assert found.report(tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"budget": "1s"}, BudgetError, r"the budget must be at least \d+s here"),
        ({"budget": 5}, BudgetError, "must read like 90s, 2m, 1h, .* got '5'"),
        ({"budget": "soon"}, BudgetError, "must read like 90s"),
        ({"schedule": "cosin"}, SettingError, "Did you mean cosine"),
        ({"seed": 1.5}, SettingError, "seed must be a whole number, got 1.5"),
    ],
)
def test_bad_input_is_refused(arguments: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        thalweg.compare("digits", **arguments)
