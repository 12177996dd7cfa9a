"""One training, from task to result: one by one, as a population, and by a function of the user's."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULT
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning import pilot
from thalweg.comparison.planning.pilot import measure
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import PopulationRun, SingleRun, Trial
from thalweg.comparison.training.trainer import follow, run_function, train_all
from thalweg.errors import TaskError
from thalweg.registry import WRAPPERS
from thalweg.tasks import Splits, Task, TrainingFunction, load

X, Y = torch.ones(20, 3), torch.ones(20, 1)
HORIZON = TrainingSchedule(steps=30, schedule="linear", looks=3)
TRIALS = [Trial({"lr": lr}, seed) for lr, seed in ((0.01, 1), (0.03, 1), (0.1, 2))]


def small(**changes: object) -> Task:
    """A small regression, whose data and model can be changed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=generator)
    parts = {
        "model": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)),
        "loss": thalweg.supervised(nn.functional.mse_loss),
        "data": (x, x.sum(1, keepdim=True).sin()),
        "batch_size": 16,
        "passes": 6,
    }
    return Task(**{**parts, **changes})


@pytest.mark.parametrize("name", [*DEFAULT, "nesterov", "lion", "nadamw", "lamb", "dog", "cautious(clip(adamw))"])
def test_a_population_trains_as_one_by_one_does(name: str) -> None:
    task, contender = small(), parse(name)
    together = follow(PopulationRun(task, contender, TRIALS), HORIZON)
    alone = [follow(SingleRun(task, contender, trial), HORIZON)[0] for trial in TRIALS]
    for one, other in zip(together, alone, strict=True):
        assert one.status == other.status == "ok"
        # The same rule on the same batches; only the order of sums inside a matrix product may differ.
        assert (one.train, one.validation, one.test) == pytest.approx(
            (other.train, other.validation, other.test), rel=2e-4
        )
        assert [look.step for look in one.looks] == [look.step for look in other.looks] == [0, 10, 20, 30]


@pytest.mark.parametrize("name", [*CONTENDERS, *(f"{wrapper}(adam)" for wrapper in WRAPPERS)])
def test_every_contender_trains_or_says_why_not(name: str) -> None:
    (result,) = train_all(small(), parse(name), TRIALS[:1], TrainingSchedule(3, "linear"))
    if parse(name).rule.min_dims:
        assert result.message.startswith("ParameterError")
        assert "must have 2 dimensions or more, got one of shape (8,)" in result.message
    else:
        assert result.status == "ok", result.message


def test_the_same_trial_gives_the_same_result_to_the_bit() -> None:
    def results() -> list[TrainingResult]:
        return train_all(small(), CONTENDERS["adam"], TRIALS, HORIZON)

    for one, other in zip(results(), results(), strict=True):
        assert (one.train, one.validation, one.test, one.looks) == (
            other.train,
            other.validation,
            other.test,
            other.looks,
        )


def test_training_is_paired_across_contenders_by_its_seed() -> None:
    firsts = [train_all(small(), CONTENDERS[name], TRIALS[:1], HORIZON)[0].looks[0] for name in ("sgd", "adam")]
    assert firsts[0] == firsts[1]
    batches = [SingleRun(small(), CONTENDERS[name], TRIALS[0]).batches for name in ("sgd", "adam")]
    for _ in range(10):
        one, other = (next(batch) for batch in batches)
        assert torch.equal(one[0], other[0])


def test_gradient_descent_sees_the_full_batch_and_stops_after_as_many_passes() -> None:
    task = small()
    run = SingleRun(task, CONTENDERS["gd"], TRIALS[0])
    assert len(next(run.batches)[0]) == 60
    assert task.batches_per_pass(full_batch=True) == 1
    assert task.batches_per_pass() == 4  # 16, 16, 16 and 12 examples


def test_the_learning_rate_follows_the_schedule() -> None:
    run = SingleRun(small(), CONTENDERS["sgd"], Trial({"lr": 0.5}, 0))
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda *_: rates.append(run.optimizer.param_groups[0]["lr"]))
    follow(run, TrainingSchedule(steps=4, schedule="linear", looks=1))
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_divergence_is_a_result() -> None:
    for trials in ([Trial({"lr": 1e6}, 0)], [Trial({"lr": 1e6}, 0), Trial({"lr": 0.01}, 0)]):
        results = train_all(load("quadratic"), CONTENDERS["gd"], trials, HORIZON)
        assert results[0].status == "diverged"
        assert [result.status for result in results[1:]] == ["ok"] * (len(trials) - 1)


def test_growing_tenfold_is_divergence_too() -> None:
    (result,) = train_all(
        load("quadratic"), CONTENDERS["gd"], [Trial({"lr": 4.0}, 0)], TrainingSchedule(6, "constant", 2)
    )
    assert math.isfinite(result.train)
    assert result.train > 10 * result.looks[0].train
    assert result.status == "diverged"


class Capricious(nn.Module):
    """Raises when its weight gets large."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(self.weight.detach()) > 5:
            raise ValueError("too large for me")
        return -self.weight * x


def test_a_training_that_raises_is_a_result_and_spares_the_others() -> None:
    x = torch.ones(20, 1)
    task = small(model=Capricious, loss=lambda model, batch: model(batch[0]).mean(), data=(x,), batch_size=4)
    trials = [Trial({"lr": 100.0}, 0), Trial({"lr": 1e-3}, 0)]
    results = train_all(task, CONTENDERS["sgd"], trials, HORIZON)
    assert [result.status for result in results] == ["failed", "ok"]
    assert results[0].message == "ValueError: too large for me"


def loaders() -> Splits:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    return Splits(*(DataLoader(data, batch_size=10, shuffle=shuffle) for shuffle in (True, False, False)))


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
    way, _ = measure(task, contender, HORIZON, 0)
    assert way.members == 1
    assert way.reason.startswith(reason)
    (result,) = train_all(task, contender, [Trial({"lr": 0.01}, 0)], HORIZON)
    assert result.status == "ok"
    assert result.train < result.looks[0].train


@pytest.mark.parametrize(("gain", "members"), [(4.0, 32), (2.1, 32), (1.9, 1), (0.3, 1)])
def test_a_population_is_chosen_where_it_is_clearly_faster(
    gain: float, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured is made up here, so that the choice is tested and not the load of this machine."""

    def made_up(action: object) -> float:
        run = next(cell.cell_contents for cell in action.__closure__ if hasattr(cell.cell_contents, "members"))
        return 1.0 if isinstance(run, SingleRun) else run.members / gain

    monkeypatch.setattr(pilot, "seconds_of", made_up)
    way, untrained = measure(load("digits"), CONTENDERS["adam"], TrainingSchedule(660, "linear"), 0)
    assert way.members == members
    assert way.reason.startswith("population of 32 under vmap" if members == 32 else "one by one: a population")
    assert untrained == pytest.approx(dict.fromkeys(("train", "validation", "test"), 2.3), abs=0.1)
    assert way.seconds(64) == pytest.approx(64 * (660 + 17) / (gain if members == 32 else 1))


def test_one_call_that_was_held_up_does_not_decide_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lengths = [0.0], iter([0.2, 0.01, 0.01])
    monkeypatch.setattr(pilot.time, "perf_counter", lambda: clock[0])

    def action() -> None:
        clock[0] += next(lengths)

    assert pilot.seconds_of(action) == pytest.approx(0.01)


def test_the_shuffling_of_a_loader_follows_from_the_seed() -> None:
    task = small(data=loaders)
    one, other, third = (
        train_all(task, CONTENDERS["sgd"], [Trial({"lr": 0.05}, seed)], HORIZON)[0] for seed in (1, 1, 2)
    )
    assert one.looks == other.looks
    assert one.looks != third.looks


def test_a_loader_with_a_generator_of_its_own_is_paired_too() -> None:
    generator = torch.Generator()
    x = torch.randn(50, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    loader = DataLoader(data, batch_size=10, shuffle=True, generator=generator)
    task = small(data=Splits(loader, loader, loader))
    one, other = (train_all(task, CONTENDERS["sgd"], [Trial({"lr": 0.05}, 3)], HORIZON)[0] for _ in range(2))
    assert one.looks == other.looks


@pytest.mark.parametrize("form", ["tensor", "list", "dict"])
def test_batches_of_a_loader_may_have_any_common_form(form: str) -> None:
    x = torch.randn(20, 3)
    rows = {"tensor": list(x), "list": [[row, row.sum()] for row in x], "dict": [{"x": row} for row in x]}[form]
    sizes: list[int] = []

    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        inputs = batch["x"] if form == "dict" else batch[0]
        sizes.append(len(inputs))
        return model(inputs).square().mean()

    loader = DataLoader(rows, batch_size=8)
    task = small(data=Splits(loader, loader, loader), loss=loss)
    found = thalweg.compare(task, ["sgd"], budget="1trial")
    assert set(sizes) == {8, 4}
    assert found.verdict.tied == ["sgd"]


def test_dropout_is_off_where_losses_are_measured() -> None:
    task = small(model=lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.9), nn.Linear(8, 1)))
    run = SingleRun(task, CONTENDERS["sgd"], TRIALS[0])
    run.step(1.0)
    assert run.evaluate("train") == run.evaluate("train")


def test_losses_over_a_split_count_every_example_once() -> None:
    x = torch.arange(5000.0).unsqueeze(1)
    task = small(data=Splits((x,), (x,), (x,)), loss=lambda model, batch: batch[0].mean())
    assert SingleRun(task, CONTENDERS["sgd"], TRIALS[0]).evaluate("train")[0] == pytest.approx(2499.5)


def test_a_training_function_reports_its_result() -> None:
    seen: list[torch.optim.Optimizer] = []

    def train(make_optimizer, report):
        weight = nn.Parameter(torch.rand(()))
        optimizer = make_optimizer([weight])
        seen.append(optimizer)
        for _ in range(3):
            weight.grad = weight.detach().clone()
            optimizer.step()
            report(weight.detach().abs(), train=0.5, test=weight.detach() + 1)

    task = TrainingFunction(train=train)
    result = run_function(task, CONTENDERS["sgd"], Trial({"lr": 0.1}, 0))
    assert isinstance(seen[0], thalweg.optim.SGD)
    assert seen[0].param_groups[0]["lr"] == 0.1
    assert [look.validation for look in result.looks] == sorted(
        (look.validation for look in result.looks), reverse=True
    )
    assert all(b == pytest.approx(0.9 * a) for a, b in pairwise(look.validation for look in result.looks))
    assert (result.train, result.test) == (0.5, pytest.approx(result.validation + 1))
    again = train_all(task, CONTENDERS["sgd"], [Trial({"lr": 0.1}, 7)], HORIZON)
    assert again[0].looks == train_all(task, CONTENDERS["sgd"], [Trial({"lr": 0.1}, 7)], HORIZON)[0].looks


def test_a_function_that_reports_nothing_failed() -> None:
    task = TrainingFunction(train=lambda make_optimizer, report: None, name="mute")
    (result,) = train_all(task, CONTENDERS["sgd"], [Trial({}, 0)], HORIZON)
    assert result.status == "failed"
    assert "mute: the function must call report(value) at least once" in result.message


def test_a_function_that_makes_no_optimizer_is_refused() -> None:
    def train(make_optimizer, report):
        report(0.5)

    with pytest.raises(TaskError, match=r"train: the function must call make_optimizer\(model\), and did not"):
        thalweg.compare(train, ["sgd"], budget="2trials")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda model, batch: model(batch[0])}, r"the loss must be a 0-d tensor, got shape \(60, 1\)"),
        ({"loss": lambda model, batch: 3.0}, "the loss must be a 0-d tensor, got float"),
        ({"loss": lambda model, batch: model(batch[0]).mean() * math.nan}, "finite before the first step, got nan"),
        ({"model": lambda: nn.Linear(4, 1)}, "the task must train, got RuntimeError: mat1 and mat2 shapes"),
        ({"model": lambda: nn.Linear(3, 1) / 2}, "the model must be makeable, got TypeError: unsupported operand"),
        ({"data": lambda: torch.load("/no/such/file")}, "data must be readable, got FileNotFoundError"),
        ({"data": Splits((X, Y), (X, Y), (X[:, :2], Y))}, "the task must train, got RuntimeError: mat1 and mat2"),
        (
            {"data": Splits((X, Y), (X, Y), (X * math.nan, Y))},
            "the test loss must be finite before the first step, got nan",
        ),
        ({"data": Splits((X, Y), None, None)}, "train, validation and test must all hold data"),
        ({"data": Splits(iter([]), (X, Y), (X, Y))}, "the train loader must say how many batches it has"),
        (
            {"loss": lambda model, batch: (model(batch[0]) * 0).sqrt().mean()},
            "training loss must be finite after a first step of length zero, so the gradient is at fault, got nan",
        ),
    ],
)
def test_a_task_that_cannot_train_at_all_is_refused_before_the_first_trial(changes: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        thalweg.compare(small(**changes), ["sgd"], budget="1trial")


def test_gradient_descent_is_refused_where_there_is_no_full_batch() -> None:
    with pytest.raises(TaskError, match="gd needs all training data in one batch, got a DataLoader"):
        thalweg.compare(small(data=loaders), ["gd"], budget="1trial")
    with pytest.raises(TaskError, match="gd needs all training data in one batch, and the function makes its own"):
        thalweg.compare(lambda make_optimizer, report: None, ["gd"], budget="1trial")


def test_a_function_that_always_raises_is_the_tasks_fault() -> None:
    calls = []

    def train(make_optimizer, report):
        if calls:  # the pilot's call went well
            raise RuntimeError("my CSV is missing")
        make_optimizer([nn.Parameter(torch.ones(1))])
        calls.append(report(1.0))

    with pytest.raises(TaskError, match="all 8 failed, the first with RuntimeError: my CSV is missing"):
        thalweg.compare(train, ["sgd", "adam"], budget="4trials")
    with pytest.raises(TaskError, match="the function must train, got RuntimeError: my CSV is missing"):
        thalweg.compare(train, ["sgd", "adam"], budget="4trials")


def test_a_contender_pinned_everywhere_still_trains() -> None:
    fixed = Contender("fixed", CONTENDERS["adam"].rule, pinned=frozenset(CONTENDERS["adam"].rule.hypers()))
    found = thalweg.compare(small(), [fixed], budget="2trials")
    assert found.contenders[0].searched == []
    assert found.contenders[0].settings == CONTENDERS["adam"].rule.settings()
