"""Workloads: a task and a training function behind one interface."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg import tasks
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import FunctionWorkload, TaskWorkload, as_workload
from thalweg.comparison.training.workload_record import WorkloadRecord
from thalweg.errors import TaskError
from thalweg.tasks import Splits


def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
    """Minimize a square."""
    param = nn.Parameter(torch.tensor([3.0]))
    optimizer = make_optimizer([param])
    for _ in range(4):
        optimizer.zero_grad()
        param.square().sum().backward()
        optimizer.step()
        report(param.square().sum())


TASK = as_workload(tasks.load("breast-cancer"))
FUNCTION = as_workload(tasks.as_task(train))


def test_the_stored_form_of_a_workload_keeps_its_keys() -> None:
    measured = {"train": "training height", "validation": "validation height", "test": "test height"}
    stored = {
        "name": "quadratic",
        "about": "a bowl in 20 dimensions with condition number 100",
        "measured": measured,
        "passes": 300,
        "result": "last",
        "sources": {},
    }
    quadratic = as_workload(tasks.load("quadratic"))
    assert quadratic.record.to_json() == stored
    assert WorkloadRecord.from_json(stored) == quadratic.record
    before = {key: value for key, value in stored.items() if key not in ("result", "sources")}
    assert WorkloadRecord.from_json(before) == quadratic.record  # of an older store
    assert not quadratic.record.is_function
    assert FUNCTION.record.is_function
    assert FUNCTION.record.to_json()["passes"] is None
    assert FUNCTION.record.measured["test"] == "reported value"


def test_a_task_and_a_function_differ_where_the_model_is_hidden() -> None:
    assert isinstance(TASK, TaskWorkload)
    assert isinstance(FUNCTION, FunctionWorkload)
    assert (TASK.uses_workers, TASK.uses_range_search, TASK.has_own_schedule) == (True, True, False)
    assert (FUNCTION.uses_workers, FUNCTION.uses_range_search, FUNCTION.has_own_schedule) == (True, False, True)
    assert (TASK.has_full_batch, FUNCTION.has_full_batch) == (True, False)
    assert (TASK.roles, FUNCTION.roles) == ({}, None)
    model = tasks.load("breast-cancer").make_model(0)
    numel = sum(param.numel() for param in model.parameters())
    assert TASK.state_bytes(CONTENDERS["adam"]) == 2 * 4 * numel
    assert FUNCTION.state_bytes(CONTENDERS["adam"]) is None
    assert (TASK.passes, FUNCTION.passes) == (tasks.load("breast-cancer").passes, 1)


def test_a_schedule_has_one_evaluation_a_pass_from_four_to_sixteen() -> None:
    task = tasks.load("breast-cancer")
    for passes, evaluations in ((1, 4), (4, 4), (5, 5), (16, 16), (17, 16)):
        workload = as_workload(replace(task, passes=passes))
        schedule = workload.training_schedule(CONTENDERS["sgd"], "cosine")
        assert schedule == TrainingSchedule(passes * task.batches_per_pass(), "cosine", evaluations)
        assert workload.training_schedule(CONTENDERS["gd"], "cosine").steps == passes
    own = replace(CONTENDERS["sgd"], schedule="none")
    assert TASK.training_schedule(own, "cosine").schedule == "none"
    assert FUNCTION.training_schedule(CONTENDERS["sgd"], "cosine") == TrainingSchedule(1, "cosine", 1)


def test_a_full_batch_is_refused_where_there_is_none() -> None:
    data = TensorDataset(torch.ones(8, 1), torch.ones(8, 1))
    loaders = Splits(*(DataLoader(data, batch_size=4) for _ in range(3)))
    loss = thalweg.supervised(nn.functional.mse_loss)
    loaded = as_workload(thalweg.Task(model=lambda: nn.Linear(1, 1), loss=loss, data=loaders))
    assert not loaded.has_full_batch
    for workload, got in ((loaded, "got a DataLoader"), (FUNCTION, "a function that makes its own batches")):
        with pytest.raises(TaskError, match=got):
            workload.training_schedule(CONTENDERS["gd"], "linear")


def test_the_target_of_a_function_is_counted_in_reports() -> None:
    target = FUNCTION.target(0.5, TrainingSchedule(4, "constant", 1))
    assert (target.loss, target.split, target.whole, target.unit) == (0.5, "validation", 4, "reports")
    assert TASK.target(0.5, TrainingSchedule(4, "constant", 1)).unit == "passes"
    assert as_workload(tasks.load("quadratic")).target(0.5, TrainingSchedule(4, "constant", 1)).unit == "steps"


def test_a_share_is_reported_after_each_evaluation_and_not_again_one_by_one() -> None:
    shares: list[float] = []
    schedule = TrainingSchedule(8, "linear", 4)
    TASK.train(CONTENDERS["sgd"], [Trial({"lr": 0.1}, 0)], schedule, shares.append)
    assert shares == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_population_that_raises_is_pruned_one_by_one_by_the_trainings_before() -> None:
    class Branching(nn.Module):
        """vmap cannot follow a branch that depends on data."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) if float(x.detach().sum()) < 1e9 else x

    x = torch.linspace(0, 1, 20).unsqueeze(1)
    loss = thalweg.supervised(nn.functional.mse_loss)
    workload = as_workload(thalweg.Task(model=Branching, loss=loss, data=(x, 3 * x), passes=9))
    shares: list[float] = []
    trials = [Trial({"lr": lr}, 0) for lr in (0.1, 1e-6, 0.2)]
    schedule = TrainingSchedule(9, "linear", 3)
    rungs = Rungs("validation", {1: [], 3: []})
    results = workload.train(CONTENDERS["sgd"], trials, schedule, shares.append, rungs)
    assert [result.status for result in results] == ["ok", "pruned", "ok"]
    assert results[1].evaluations[-1].step == 1
    assert shares == [0.0]  # of the population, before its first step


def test_an_edited_function_has_another_fingerprint() -> None:
    def edited(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        make_optimizer([nn.Parameter(torch.tensor([3.0]))])
        report(1.0)

    assert FUNCTION.fingerprint() == as_workload(tasks.as_task(train)).fingerprint()
    changed = as_workload(replace(tasks.as_task(edited), name="train"))
    assert FUNCTION.fingerprint() != changed.fingerprint()
