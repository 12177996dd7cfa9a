"""Gradient accumulation, mixed precision, and evaluation with autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.population_run import why_not_population
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.task_fingerprint import fingerprint_of_task
from thalweg.comparison.training.timing import measure_task
from thalweg.comparison.training.workload import TaskWorkload
from thalweg.errors import TaskError

LOSS = thalweg.supervised(nn.functional.mse_loss)


def data(count: int = 70) -> tuple[Tensor, Tensor]:
    inputs = torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs, inputs.sin().sum(1, keepdim=True)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def task(**settings: Any) -> thalweg.Task:
    splits = thalweg.Splits(data(), data(30), data(30))
    return thalweg.Task(**{"model": network, "loss": LOSS, "data": splits, "name": "sines"} | settings)


def trained(task: thalweg.Task, name: str = "adam", steps: int = 12) -> list[Tensor]:
    run = SingleRun(task, parse(name), Trial({}, 0))
    run.advance([1.0] * steps)
    return [param.detach() for param in run.model.parameters()]


@pytest.mark.parametrize("name", ["adam", "sam(sgd)", "adahessian"])
def test_accumulated_gradients_are_those_of_a_large_batch(name: str) -> None:
    """70 examples: the last step of a pass has 22 instead of 24, in batches of 8, 8 and 6."""
    accumulated = task(batch_size=8, accumulate=3)
    large = task(batch_size=24)
    assert accumulated.batches_per_pass() == large.batches_per_pass() == 3
    assert accumulated.batches_per_pass(full_batch=True) == 1
    if name == "adahessian":  # its curvature is that of the first batch
        assert all(param.isfinite().all() for param in trained(accumulated, name))
        return
    for param, expected in zip(trained(accumulated, name), trained(large, name), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-10, atol=1e-12)
    few = trained(task(batch_size=8), name)
    assert not any(torch.allclose(a, b, rtol=1e-4) for a, b in zip(few, trained(large, name), strict=True))


def test_batches_of_a_loader_are_accumulated() -> None:
    loaders = [DataLoader(TensorDataset(*data()), batch_size=size) for size in (8, 24)]
    splits = [thalweg.Splits(loader, data(30), data(30)) for loader in loaders]
    accumulated, large = task(data=splits[0], accumulate=3), task(data=splits[1])
    assert accumulated.batches_per_pass() == 3
    for param, expected in zip(trained(accumulated), trained(large), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-10, atol=1e-12)


class Recorder(nn.Module):
    """A layer that notes the dtype of its result, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dtypes = nn.Linear(3, 1), set[tuple[bool, torch.dtype]]()

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layer(inputs)
        self.dtypes.add((self.training, result.dtype))
        return result


@pytest.mark.parametrize("precision", ["bfloat16", "float16", None])
def test_activations_have_the_precision(precision: Any) -> None:
    inputs, target = (tensor.float() for tensor in data())
    cast = task(
        model=Recorder, data=(inputs, target), precision=precision, loss=lambda model, batch: LOSS(model.float(), batch)
    )
    run = SingleRun(cast, parse("sgd:lr=0.1"), Trial({}, 0))
    before = run.evaluate("train")[0]
    run.advance([1.0] * 20)
    assert run.evaluate("train")[0] < 0.9 * before
    dtype = torch.float32 if precision is None else getattr(torch, precision)
    assert run.model.dtypes == {(True, dtype), (False, dtype)}
    assert run.model.layer.weight.dtype == run.model.layer.weight.grad.dtype == torch.float32


def test_float16_scales_the_loss() -> None:
    """A gradient of 1e-8 is zero in float16. A scale keeps it, and a step with an infinite gradient is left out."""

    # From 1e-5 a half of 1e-3 makes 1e-8. The least number of float16 is 6e-8.
    class Small(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return (grad.half() * 1e-3).float()

    infinite: list[bool] = [False]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        factor = torch.tensor(float("inf") if infinite[0] else 1e-5)
        return Small.apply(model.weight.sum()) * factor  # type: ignore[no-any-return]

    run = SingleRun(
        task(model=lambda: nn.Linear(1, 1, bias=False), loss=loss, data=None, precision="float16"),
        parse("sgd:lr=1000000"),
        Trial({}, 0),
    )
    start = run.model.weight.item()
    run.step(1.0)
    assert start - run.model.weight.item() == pytest.approx(1e-2, rel=1e-2)
    moved = run.model.weight.detach().clone()
    infinite[0] = True
    run.step(1.0)
    assert torch.equal(run.model.weight, moved)


@pytest.mark.parametrize("name", ["lbfgs", "sam(adam)", "then(adam,lbfgs)"])
def test_closures_need_no_scaler(name: str) -> None:
    got = r"needs losses without a GradScaler, got precision='float16' \(at .*:\d+\)\. Use precision='bfloat16'"
    with pytest.raises(TaskError, match=got):
        TaskWorkload(task(precision="float16")).training_schedule(parse(name), "linear")
    TaskWorkload(task(precision="bfloat16")).training_schedule(parse(name), "linear")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"accumulate": 2}, "accumulates the gradients"), ({"precision": "bfloat16"}, "trains in bfloat16 by autocast")],
)
def test_populations_say_why_they_train_one_by_one(settings: dict[str, Any], reason: str) -> None:
    changed = task(**settings)
    assert reason in str(why_not_population(changed, parse("adam"), network()))
    assert fingerprint_of_task(changed) != fingerprint_of_task(task())
    assert why_not_population(task(), parse("adam"), network()) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate must be a whole number, 1 or more, got 0"),
        ({"accumulate": 2.0}, "accumulate must be a whole number, 1 or more, got 2.0"),
        ({"accumulate": True}, "accumulate must be a whole number, 1 or more, got True"),
        ({"precision": "half"}, "precision must be 'bfloat16', 'float16' or None, got 'half'"),
        ({"needs_grad": 1}, "needs_grad must be True, False or None, got 1"),
    ],
)
def test_wrong_parts_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=rf"^sines: {message}"):
        task(**settings)


def differentiating(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a physics-informed network: du/dx = u."""
    inputs = batch[0].requires_grad_()
    value = model(inputs)
    (slope,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    return (slope - value).square().mean()


class Evaluations:
    """A measure that counts its calls with and without autograd."""

    def __init__(self, measure: Callable[..., Tensor]) -> None:
        self.measure, self.modes = measure, list[bool]()

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.modes.append(torch.is_grad_enabled())
        return self.measure(model, batch)


def test_the_first_evaluation_decides_whether_a_loss_needs_autograd() -> None:
    loss, metric = Evaluations(differentiating), Evaluations(LOSS)
    pinn = task(loss=loss, metric=metric)
    run = SingleRun(pinn, parse("lbfgs"), Trial({}, 0))
    values = run.evaluate("train")
    assert loss.modes == [False, True]
    assert run.evaluate("train") == values
    assert loss.modes == [False, True, True]
    run.evaluate("validation")
    run.test()
    assert not any(metric.modes)
    assert (pinn.evaluates_with_grad("loss"), pinn.evaluates_with_grad("metric")) == (True, False)
    loss.modes.clear()
    SingleRun(pinn, parse("adam"), Trial({}, 1)).evaluate("train")
    assert loss.modes == [True]
    expected = differentiating(run.model, [tensor.clone() for tensor in pinn.splits.train])
    assert values[0] == pytest.approx(float(expected.detach()), rel=1e-12)


def test_an_evaluation_leaves_no_gradient_behind() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        value = differentiating(model, batch)
        value.backward(retain_graph=True)  # what such a loss may do
        return value

    run = SingleRun(task(loss=loss), parse("adam"), Trial({}, 0))
    run.evaluate("train")
    assert all(param.grad is None for param in run.model.parameters())
    run = SingleRun(task(loss=differentiating), parse("lbfgs"), Trial({}, 0))
    run.advance([1.0] * 3)
    grads = [param.grad for param in run.model.parameters()]
    run.evaluate("train")
    assert all(param.grad is grad for param, grad in zip(run.model.parameters(), grads, strict=True))
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in run.task.splits.train)


@pytest.mark.parametrize("needs_grad", [True, False])
def test_a_task_may_say_whether_it_needs_autograd(needs_grad: bool) -> None:
    loss = Evaluations(differentiating if needs_grad else LOSS)
    SingleRun(task(loss=loss, needs_grad=needs_grad), parse("adam"), Trial({}, 0)).evaluate("train")
    assert loss.modes == [needs_grad]


def test_an_error_without_autograd_is_the_one_that_is_shown() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        raise ValueError("with" if torch.is_grad_enabled() else "without")

    wrong = task(loss=loss)
    with pytest.raises(ValueError, match="^without$"):
        SingleRun(wrong, parse("adam"), Trial({}, 0)).evaluate("train")
    assert wrong.evaluates_with_grad("loss") is None


def test_the_plan_says_that_evaluations_use_autograd() -> None:
    schedule = TrainingSchedule(4, "linear", 4)
    mode = measure_task(task(loss=differentiating), parse("adam"), schedule, 0).mode
    assert mode.members == 1
    assert mode.reason.startswith("one by one: vmap cannot take the model")
    assert mode.reason.endswith("; evaluations use autograd, which the loss needs")
    assert "autograd" not in measure_task(task(accumulate=2), parse("adam"), schedule, 0).mode.reason
