"""A comparison of a function that takes no time, with validation and test values, lost runs and learning curves."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Comparison, Store
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
