"""The choice between a population and trainings one by one, and its measurement."""

import pytest
import torch
from torch import nn

from tests.comparison.training.small_task import SCHEDULE, loaders, small
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training import stopwatch, timing
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.timing import measure_task
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import load


class Batched(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), inner, nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Counting(nn.Module):
    """Keeps a buffer by assigning it anew, which a population would not see."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return x * (1 + 1e-3 * self.calls)


class Branching(nn.Module):
    """vmap cannot follow a branch that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if float(x.detach().sum()) > 1e9 else self.linear(x).tanh()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": loaders}, "one by one: the data come from a DataLoader"),
        ({"model": lambda: Batched(nn.BatchNorm1d(4))}, "one by one: the model changes its buffers as it trains"),
        ({"model": lambda: Batched(Counting())}, "one by one: the model changes its buffers as it trains"),
        (
            {"model": lambda: Batched(nn.Linear(4, 4).requires_grad_(False))},
            "one by one: a part of the model is frozen",
        ),
        ({"model": Branching}, "one by one: vmap cannot take the model (RuntimeError: vmap"),
        ({"model": lambda: nn.Sequential(nn.Linear(3, 1500), nn.Linear(1500, 1500), nn.Linear(1500, 1))}, "one by one"),
    ],
)
def test_a_model_that_cannot_be_stacked_trains_one_by_one_and_says_why(changes: dict, reason: str) -> None:
    task, contender = small(**changes), CONTENDERS["sgd"]
    mode = measure_task(task, contender, SCHEDULE, 0).mode
    assert mode.members == 1
    assert mode.reason.startswith(reason)
    (result,) = as_workload(task).train(contender, [Trial({"lr": 0.01}, 0)], SCHEDULE)
    assert result.status == "ok"
    assert result.train < result.evaluations[0].train


@pytest.mark.parametrize("gain", [1000.0, 1e-3])
@pytest.mark.parametrize(("name", "members"), [("digits", 32), ("rosenbrock", 128), ("patches", 8), ("digits-cnn", 1)])
def test_the_clock_does_not_choose_between_a_population_and_one_by_one(
    name: str, members: int, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gain of a population that is made up, far above and far below 1."""

    def made_up(action: object, *_: object) -> float:
        run = next(cell.cell_contents for cell in action.__closure__ if hasattr(cell.cell_contents, "members"))
        return 1.0 if isinstance(run, SingleRun) else run.members / gain

    monkeypatch.setattr(timing, "seconds_of", made_up)
    measurement = measure_task(load(name), CONTENDERS["adam"], TrainingSchedule(660, "linear"), 0)
    mode = measurement.mode
    assert mode.members == members
    assert mode.reason.startswith(
        f"population of {members} under vmap: its operations are small" if members > 1 else "one by one: its operations"
    )
    evaluations = len(TrainingSchedule(660, "linear").evaluation_steps())
    assert mode.seconds(128) == pytest.approx(128 * (660 + evaluations) / (gain if members > 1 else 1))
    monkeypatch.undo()
    timed = measure_task(load(name), CONTENDERS["adam"], TrainingSchedule(660, "linear"), 0)
    assert (timed.mode.members, timed.mode.reason) == (mode.members, mode.reason)
    assert timed.nominal_s == measurement.nominal_s > 0


def test_one_call_that_was_held_up_does_not_decide_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lengths = [0.0], iter([0.2, 0.01, 0.01])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])

    def action() -> None:
        clock[0] += next(lengths)

    assert timing.seconds_of(action) == pytest.approx(0.01)
