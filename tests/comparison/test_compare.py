"""Whole comparisons, also interrupted ones."""

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
from cases.comparison_records import PLAN, WORKLOAD
from thalweg.cli.main import cli
from thalweg.comparison import Progress, Store
from thalweg.errors import BudgetError, SettingError, StoreError, TaskError


def by_name(comparison: thalweg.Comparison) -> dict:
    return {contender["name"]: contender for contender in comparison.to_json()["contenders"]}


def without_times(result: dict) -> dict:
    """Return the part of a result that is the same for the same seed."""
    copy = json.loads(json.dumps(result))
    for contender in copy["contenders"]:
        del contender["seconds"], contender["way"], contender["update_seconds"]
    copy.pop("report", None)
    return copy


def test_linear_regression_comes_within_a_percent_of_the_optimum() -> None:
    comparison = thalweg.compare("linear-regression", "gd,sgd,momentum,adagrad,rmsprop,adam", budget="16trials")
    optimum = comparison.to_json()["optimum"]
    assert by_name(comparison)[comparison.verdict.recommended]["train_loss"] <= 1.01 * optimum
    assert set(by_name(comparison)) == {"gd", "sgd", "momentum", "adagrad", "rmsprop", "adam"}


def test_the_result_has_the_promised_keys_and_is_plain_json() -> None:
    result = thalweg.compare("quadratic", ["gd", "adam"], budget="4trials", device="cpu").to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == [
        *("task", "metric", "maximize", "scale", "margin", "result", "optimum", "trainings", "contenders", "verdict"),
        *("hindsight", "cautions", "code", "device", "failures", "missing_parts"),
    ]
    assert (result["failures"], result["missing_parts"]) == ([], [])
    assert result["device"] == {"name": "cpu", "reason": "requested", "hardware": ["cpu"]}
    for contender in result["contenders"]:
        assert list(contender) == [
            *("name", "settings", "searched", "value", "low", "high", "untuned", "recommended", "yours", "missed"),
            *("example_error", "worse_by", "compared_value", "worse_by_text", "metrics", "train_loss", "rank"),
            *(
                "unlearnt",
                "bound",
                "studies",
                "seeds",
                "diverged",
                "failed",
                "failed_trainings",
                "seconds",
                "bytes",
                "update_seconds",
                "code",
                "way",
                "at_edge",
                "range_extended",
                "good_rates",
            ),
        ]
        high = math.inf if contender["high"] is None else contender["high"]  # of one seed
        assert contender["low"] <= contender["value"] <= high
    assert list(result["verdict"]) == [
        *("settled", "best", "tied", "within", "recommended", "ranked", "headline", "text", "ranking_text")
    ]
    assert result["optimum"] == 0.0


def test_every_contender_has_the_same_budget_and_the_same_fresh_seeds() -> None:
    comparison = thalweg.compare("quadratic", ["gd", "adam"], budget="2x4trials")
    trials = comparison.store.trials(1)
    counts = {}
    for trial in trials:
        counts[trial.contender, trial.stage] = counts.get((trial.contender, trial.stage), 0) + 1
    stages = ("search", "retrain", "race", "value")
    for stage in stages[:3]:
        assert counts["gd", stage] == counts["adam", stage] > 0
    seeds = {stage: {trial.seed for trial in trials if trial.stage == stage} for stage in stages}
    assert all(not seeds[first] & seeds[second] for first, second in itertools.combinations(stages, 2))
    assert {trial.seed for trial in trials if (trial.contender, trial.stage) == ("gd", "race")} == seeds["race"]


def test_the_same_seed_gives_the_same_verdict_and_another_seed_another_result() -> None:
    first, second, third = (
        thalweg.compare("quadratic", ["gd", "adam"], budget="4trials", seed=seed).to_json() for seed in (1, 1, 2)
    )
    assert without_times(first) == without_times(second)
    assert without_times(first) != without_times(third)


def test_progress_is_reported_from_the_pilot_to_the_end() -> None:
    reports: list[Progress] = []
    fixed = thalweg.Contender("fixed", thalweg.rules.SGD(lr=0.1), pinned=frozenset({"lr", "momentum", "weight_decay"}))
    comparison = thalweg.compare("quadratic", ["gd", fixed], budget="8trials", watch=reports.append)
    assert [report.contender for report in reports[:2]] == ["gd", "fixed"]
    assert {report.stage for report in reports} >= {"pilot", "search", "value"}
    trained = [report for report in reports if report.stage not in ("pilot", "")]
    assert all(a.done <= b.done for a, b in itertools.pairwise(trained))
    assert trained[-1].done == trained[-1].total == 16
    # Nothing to search is searched once.
    assert sum(trial.stage == "search" for trial in comparison.trials() if trial.contender == "fixed") == 1


def test_settings_that_need_other_programs_are_trained_in_other_populations() -> None:
    """`rules.SGD()` starts without momentum, and the search opens it: two programs, and no training fails over it."""
    comparison = thalweg.compare("quadratic", [thalweg.rules.SGD()], budget="12trials")
    momenta = [trial.settings["momentum"] for trial in comparison.contenders[0].trials["search"]]
    assert 0 in momenta
    assert any(momenta)
    assert all(trial.result.status != "failed" for trial in comparison.contenders[0].trials["search"])


COMMAND = ["compare", "breast-cancer", "--with", "sgd,adam", "--budget", "3x12trials", "--workers", "1"]


def rows(store: Path) -> list[tuple]:
    """Return all stored results with their seconds: a training that was repeated would have others."""
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
    # Uninterrupted, by the same stored plan: on a busy machine another pilot may choose other execution modes.
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(store, whole)
    with sqlite3.connect(whole / store.name) as connection:
        connection.execute("DELETE FROM results")
    Store(whole / store.name).reopen(1)
    assert without_times(resumed) == without_times(run(whole))
    assert [row[:5] for row in sorted(rows(whole / store.name))] == [row[:5] for row in sorted(after)]


def test_a_finished_comparison_is_shown_and_not_run_again(tmp_path: Path) -> None:
    arguments = {"budget": "4trials", "store": tmp_path / "store.sqlite"}
    first = thalweg.compare("quadratic", ["gd"], **arguments)
    reports: list[Progress] = []
    again = thalweg.compare("quadratic", ["gd"], **arguments, watch=reports.append)
    assert reports == []
    assert again.to_json() == first.to_json()


def test_a_comparison_may_run_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        comparison = pool.submit(thalweg.compare, "quadratic", ["gd"], budget="1trial").result()
    assert comparison.verdict.best == "gd"


def test_a_file_that_draws_its_data_without_a_seed_is_the_same_task_each_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy, torch, thalweg\nfrom torch import nn\nx = torch.randn(50, 1)\n"
        "def model():\n    layer = nn.Linear(1, 1)\n    layer.weight.data.fill_(numpy.random.rand())\n"
        "    return layer\n"
        "task = thalweg.Task(model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x), passes=1)\n"
    )
    store = Store(tmp_path / "store.sqlite")
    first, second = (thalweg.compare(f"{path}:task", ["gd"], budget="1trial", store=store) for _ in range(2))
    assert first.record.id == second.record.id


def test_a_small_search_and_an_edge_give_cautions() -> None:
    narrow = thalweg.Contender(
        "sgd",
        thalweg.rules.SGD(lr=1e-2),
        pinned=frozenset({"momentum", "weight_decay"}),
        ranges={"lr": thalweg.rules.Range(1e-3, 1e-2, "log")},
    )
    comparison = thalweg.compare("quadratic", [narrow], budget="1trial")
    assert comparison.cautions == [
        "Only 1 setting was searched, of all contenders together. A larger budget may find a better one.",
        "sgd: the best lr, 0.01, is at the upper end of its search range (0.01). A better value may lie above.",
    ]
    assert comparison.to_json()["contenders"][0]["at_edge"] == ["lr"]


def test_a_rate_beyond_the_declared_range_is_compared_with_the_range_that_was_searched() -> None:
    """The search of sgd, declared up to 10, went on to higher rates; the best is not the last of them."""

    def train(make_optimizer, report) -> None:
        """Ten steps on a parabola so flat that the best learning rate is 30."""
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = make_optimizer(model)
        for _ in range(10):
            optimizer.zero_grad()
            loss = ((model.weight - 1) ** 2).sum() / 60
            loss.backward()
            optimizer.step()
        report(float(((model.weight - 1) ** 2).sum().detach()) + 0.01)

    comparison = thalweg.compare(train, ["sgd:weight_decay=0"], budget="40trials", seed=0, workers=1)
    (summary,) = comparison.contenders
    tried = [trial.settings["lr"] for trial in summary.trials["search"]]
    assert summary.settings["lr"] > 10
    assert max(tried) > 1.2 * summary.settings["lr"]
    assert summary.at_edge == []


@pytest.mark.parametrize(("options", "says"), [({"prune": True}, False), ({"refine": True, "prune": True}, True)])
def test_an_option_of_a_ranking_says_that_it_changes_nothing_without_one(options: dict[str, bool], says: bool) -> None:
    messages: list[str] = []
    thalweg.compare(
        "quadratic", ["sgd"], budget="1trial", watch=lambda progress: messages.append(progress.message), **options
    )
    notice = "refine changes the studies of a ranking, which this budget does not include."
    assert (notice in messages) is says


def test_a_second_rule_that_never_ran_gives_a_caution() -> None:
    comparison = thalweg.compare("linear-regression", ["then(adam,sgd):switch_at=100000"], budget="1trial")
    text = " ".join(comparison.cautions)
    assert "switches to its second rule after step 100000, but trainings end after step" in text
    assert "so that rule never ran. Set a smaller step, such as switch_at=" in text


def test_a_stated_optimum_that_is_beaten_gives_a_caution() -> None:
    task = dataclasses.replace(thalweg.tasks.load("quadratic"), optimum=5.0)
    assert "is below the optimum that the task states, 5." in " ".join(
        thalweg.compare(task, ["adam"], budget="8trials").cautions
    )


def test_a_comparison_in_which_every_training_failed_is_not_stored(tmp_path: Path) -> None:
    weights = tmp_path / "weights.txt"

    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(float(weights.read_text()))

    arguments = {"budget": "2trials", "store": tmp_path}  # a folder means the store in it
    with pytest.raises(TaskError, match="FileNotFoundError"):
        thalweg.compare(train, ["sgd"], **arguments)
    weights.write_text("0.5")
    assert thalweg.compare(train, ["sgd"], **arguments).contenders[0].value.mean == pytest.approx(0.5)
    assert (tmp_path / "store.sqlite").exists()


def test_by_default_only_contenders_that_can_train_take_part() -> None:
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


def test_weight_decay_is_off_if_the_optimum_is_known() -> None:
    (adamw,) = thalweg.compare("linear-regression", ["adamw"], budget="4trials").contenders
    assert adamw.settings["weight_decay"] == 0
    assert adamw.line.endswith("weight_decay=0.0)")


def test_every_fact_that_changes_the_results_makes_another_comparison(tmp_path: Path) -> None:
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
    comparisons = [
        thalweg.compare(workload, contenders, **{"budget": "1trial", "store": store, **options})
        for workload, contenders, options in calls
    ]
    assert len({comparison.record.id for comparison in comparisons}) == len(calls)
    again = thalweg.compare(task(), ["gd"], budget="1trial", store=store)
    assert again.record.id == comparisons[0].record.id


def test_an_unfinished_comparison_has_no_verdict_yet(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    record = store.create("key", workload=WORKLOAD, contenders=[], plan=PLAN, environment={})
    with pytest.raises(StoreError, match="must be stored, and none is"):
        thalweg.Comparison(store, record)


def test_a_contender_that_always_diverges_is_ranked_last_and_not_hidden() -> None:
    wild = thalweg.rules.SGD(lr=1e9)
    comparison = thalweg.compare("quadratic", [wild, "gd"], budget="4trials")
    assert [summary.name for summary in comparison.contenders] == ["gd", "sgd:lr=1e+09"]
    worst = by_name(comparison)["sgd:lr=1e+09"]
    assert (worst["value"], worst["diverged"] > 0) == (None, True)
    assert comparison.verdict.recommended == "gd"
    assert math.isinf(comparison.contenders[1].value.mean)


def test_nothing_is_recommended_if_every_training_diverges(tmp_path: Path) -> None:
    wild = thalweg.rules.SGD(lr=1e9)
    comparison = thalweg.compare("quadratic", [wild], budget="4trials")
    assert (comparison.verdict.best, comparison.code) == (None, "")
    assert "Nothing to recommend" in comparison.report(tmp_path / "report.html").read_text()


def test_a_training_function_is_tuned(tmp_path: Path) -> None:
    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(30):
            optimizer.zero_grad()
            loss = (weight * torch.tensor([1.0, 3.0])).square().sum()
            loss.backward()
            optimizer.step()
        report(loss.item())

    comparison = thalweg.compare(train, ["sgd", "adam"], budget="24trials")
    searched = [trial.result.test for summary in comparison.contenders for trial in summary.trials["search"]]
    assert comparison.contenders[0].value.mean < max(searched) / 10
    assert "LinearLR" not in comparison.code  # its schedule is its own
    assert comparison.report(tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"budget": "0s"}, BudgetError, "must read like 90s"),
        ({"workers": 100_000}, SettingError, "workers must be at most"),
        ({"budget": 5}, BudgetError, "must read like 90s, 2m, 1h, .* got '5'"),
        ({"budget": "soon"}, BudgetError, "must read like 90s"),
        ({"schedule": "cosin"}, SettingError, "Did you mean cosine"),
        ({"seed": 1.5}, SettingError, "seed must be a whole number, got 1.5"),
    ],
)
def test_bad_input_is_refused(arguments: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        thalweg.compare("digits", **arguments)
