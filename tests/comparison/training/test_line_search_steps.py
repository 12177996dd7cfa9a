"""Steps of a line search count evaluations of loss and gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.timing import time_of_step
from thalweg.comparison.training.trainer import follow
from thalweg.comparison.training.workload import TaskWorkload
from thalweg.errors import TaskError


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    return inputs, (3 * inputs).sin().prod(1, keepdim=True)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


class Counted:
    """A task that counts the examples whose gradients were computed."""

    def __init__(self, **settings: Any) -> None:
        self.examples: list[int] = []
        loss = thalweg.supervised(nn.functional.mse_loss)

        def counting(model: nn.Module, batch: Any) -> Tensor:
            if torch.is_grad_enabled():
                self.examples.append(len(batch[0]))
            return loss(model, batch)

        self.task = thalweg.Task(model=model, loss=counting, data=data(), name="sines", **settings)

    def run(self, name: str) -> tuple[SingleRun, Any]:
        run = SingleRun(self.task, parse(name), Trial({}, 0))
        schedule = TaskWorkload(self.task).training_schedule(parse(name), "linear")
        (result,) = follow(run, schedule)
        return run, result


@pytest.mark.parametrize("search", ["strong_wolfe", "fixed"])
def test_a_training_of_lbfgs_sees_the_data_as_often_as_it_has_passes(search: str) -> None:
    counted = Counted(passes=40)
    run, result = counted.run(f"lbfgs:line_search_fn={search}")
    assert run.steps_done == 40
    assert set(counted.examples) == {60}
    assert 40 <= len(counted.examples) <= 42  # the last line search is ended
    assert [evaluation.step for evaluation in result.evaluations][-1] == 40


def test_the_iterations_are_those_of_one_call_of_step() -> None:
    """On a full batch no evaluation is lost at the border between two steps."""
    counted = Counted(passes=60)
    run, _ = counted.run("lbfgs")
    iterations = int(run.optimizer.state[next(run.model.parameters())]["step"])
    task = counted.task
    alone = task.make_model(0)
    optimizer = thalweg.optim.LBFGS(
        alone.parameters(), line_search_fn="strong_wolfe", max_iter=iterations, max_eval=1000, history_size=100
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = task.loss(alone, task.splits.train)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == len([size for size in counted.examples if size == 60][:calls])
    for param, expected in zip(run.model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(param, expected)


def test_the_full_batch_after_batches_costs_a_pass() -> None:
    counted = Counted(passes=20, batch_size=10)
    run, _ = counted.run("then(adam,lbfgs):switch_at=30")
    assert run.steps_done == 20 * 6
    assert counted.examples[:30] == [10] * 30
    assert set(counted.examples[30:]) == {60}
    assert 15 <= len(counted.examples[30:]) <= 17


def test_batches_of_lbfgs_are_evaluated_anew() -> None:
    """A rule that the user passes without full batches gets another batch in every step."""
    counted = Counted(passes=5, batch_size=20)
    run = SingleRun(counted.task, replace(parse("lbfgs"), full_batch=False), Trial({}, 0))
    run.advance([1.0] * 12)
    iterations = int(run.optimizer.state[next(run.model.parameters())]["step"])
    assert iterations > 2
    assert len(counted.examples) >= 2 * iterations  # at the start of each line search, and at its end


def test_other_contenders_take_a_step_for_each_batch() -> None:
    counted = Counted(passes=3, batch_size=20)
    counted.run("adam")
    assert counted.examples == [20] * 9


def test_the_time_of_a_step_is_that_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(passes=40)
    clock: list[float] = [0.0]

    def seconds_of(action: Callable[[], Any], *_: Any) -> float:
        before = len(counted.examples)
        action()
        clock.append(float(len(counted.examples) - before))
        return clock[-1]

    monkeypatch.setattr("thalweg.comparison.training.timing.seconds_of", seconds_of)
    run = SingleRun(counted.task, parse("lbfgs"), Trial({}, 0))
    assert 0.8 <= time_of_step(run) <= 1.3


def test_a_loader_has_no_full_batch_to_end_on() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=10)
    task = thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=thalweg.Splits(loader, loader, loader)
    )
    with pytest.raises(TaskError, match=r"then\(adam,lbfgs\) needs all training data in one batch, got a DataLoader"):
        TaskWorkload(task).training_schedule(parse("then(adam,lbfgs)"), "linear")
