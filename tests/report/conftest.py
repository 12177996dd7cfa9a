"""A comparison of a function that takes no time, with validation and test values, lost runs and learning curves."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.pages import open_browser
from thalweg.comparison import Comparison, Store
from thalweg.errors import TaskError
from thalweg.report import render

CONTENDERS = ["momentum", "adam", "rmsprop", "lion"]


def train(make_optimizer, report):
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    luck = torch.rand(()).item()
    for _ in range(8):
        optimizer.zero_grad()
        loss = (weight * torch.tensor([1.0, 5.0])).square().sum()
        loss.backward()
        optimizer.step()
        value = 0.1 + loss.item()
        lost = luck < 0.1
        report(math.nan if lost else value + 0.02 * luck, train=value, test=value + 0.03 * luck * luck)


def compare(path: Path, names: list[str] = CONTENDERS, budget: str = "27trials") -> Comparison:
    task = thalweg.tasks.TrainingFunction(train=train, name="a bowl", source="a bowl")
    return thalweg.compare(task, names, budget=budget, workers=1, store=path, quiet=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def measured_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "store.sqlite"
    compare(path)
    return path


@pytest.fixture(scope="session")
def measured(measured_store: Path) -> Comparison:
    store = Store(measured_store, write=False)
    return Comparison(store, store.find())


@pytest.fixture(scope="session")
def measured_page(measured: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(measured))
    assert measured.parts.missing == []
    return path


def task_of(name: str, values: dict[str, float], noise: float, *, fails: str = "", diverges: str = "") -> object:
    """A task that takes no time: an optimizer of a class reaches a value of its own, with noise by setting and seed.

    Trainings of the class ``fails`` raise an error two times in five, those of the class ``diverges`` always diverge.
    """

    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        weight.square().sum().backward()
        optimizer.step()
        kind, seed = type(optimizer).__name__, torch.randint(0, 2**31, ()).item()
        luck = zlib.crc32(f"{kind} {seed} {optimizer.param_groups[0]['lr']:.9g}".encode()) / 2**32
        if kind == fails and luck < 0.4:
            raise ValueError("the disk is gone")
        report(math.nan if kind == diverges else values[kind] * (1 + noise * luck))

    return thalweg.tasks.TrainingFunction(train=train, name=name, source=f"{name} {values} {noise} {fails} {diverges}")


@pytest.fixture(scope="session")
def measured_suite() -> thalweg.Suite:
    """A suite: the first task has a winner, the second is undecided, of the third trainings fail, the fourth failed."""
    values = {"Adam": 0.1, "SGD": 0.2, "RMSprop": 0.5}  # momentum is of the class SGD
    tasks = [
        task_of("clear", values, 0.02),
        task_of("un<i>decided", dict.fromkeys(values, 1.0), 1.0),
        task_of("with losses", values, 0.05, fails="SGD", diverges="RMSprop"),
    ]
    names = ["adam", "momentum", "rmsprop"]
    finished = thalweg.compare_suite(tasks, names, budget="34trials", workers=1, quiet=True)  # 102 pay for a race
    return thalweg.Suite(finished.comparisons, {"<i>gone</i>": TaskError("the <script> is gone")})


@pytest.fixture(scope="session")
def suite_page(measured_suite: thalweg.Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = measured_suite.report(tmp_path_factory.mktemp("suite"))
    assert measured_suite.parts.missing == []
    return path
