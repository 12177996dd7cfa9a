"""Changes of numbers: values that are not finite, functions that make them, and their format."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.trainings import accuracy, blobs, classes, paste, repeat, score, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.tasks import Training


def rows_with_nan() -> tuple[Tensor, Tensor]:
    x, y = blobs()
    x[::10, 1] = float("nan")
    return x, y


@pytest.mark.parametrize("name", ["examples that are not finite left out", "inputs that are not finite set to 0"])
def test_data_that_are_not_finite_are_cured(name: str) -> None:
    def make() -> Training:
        training = classes()
        training.batches = repeat(*rows_with_nan())
        return training

    change = BY_NAME[name]
    assert math.isnan(train(make(), 20)[-1])
    cured = change.apply(make(), None)
    losses = train(cured, 100)
    assert score(cured) > 0.95
    assert train(paste(make(), change.code(make(), None)), 100) == pytest.approx(losses)
    assert "finite" in change.why_not(classes(), None)


def root_loss(output: Tensor, target: Tensor) -> Tensor:
    error = (output - target).square()
    return (error * (error > 1e-2)).sqrt().mean()


def log_loss(output: Tensor, target: Tensor) -> Tensor:
    share = torch.sigmoid(100 * (output - target))
    return (output - target).abs().mean() + 0.1 * (share * torch.log(share)).mean()


def ratio_loss(output: Tensor, target: Tensor) -> Tensor:
    scale = (target > 0).float()
    return (output - target).abs().mean() + (scale * output / scale).square().mean() * 0.01


def power_loss(output: Tensor, target: Tensor) -> Tensor:
    error = (output - target).square() * (target.abs() > 0.5)
    return (error**0.5).mean()


@pytest.mark.parametrize(
    ("name", "loss_fn", "line"),
    [
        ("roots guarded", root_loss, "(error * (error > 1e-2)).clamp_min(1e-07)).sqrt()"),
        ("roots guarded", power_loss, "error.clamp_min(1e-07)**0.5"),
        ("logarithms guarded", log_loss, "torch.log(share.clamp_min(1e-07))"),
        ("divisions guarded", ratio_loss, "/ (scale + 1e-07)"),
    ],
)
def test_functions_that_are_not_finite_at_0_are_guarded(name: str, loss_fn: Any, line: str) -> None:
    change = BY_NAME[name]
    sick = train(values(loss_fn=loss_fn), 30)
    assert not math.isfinite(sick[-1])
    losses = train(change.apply(values(loss_fn=loss_fn), None), 30)
    assert math.isfinite(sum(losses))
    code = change.code(values(loss_fn=loss_fn), None)
    assert line in code
    assert f"loss_fn = {loss_fn.__name__}" in code
    again = train(paste(values(loss_fn=loss_fn), code, torch=torch, Tensor=Tensor), 30)
    assert again == pytest.approx(losses, rel=1e-2)


def test_a_guard_changes_nothing_where_numbers_are_far_from_0() -> None:
    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square() + 1.0).sqrt().mean() / torch.tensor(2.0)

    plain = train(values(loss_fn=loss_fn), 4)
    for name in ("roots guarded", "divisions guarded"):
        assert train(BY_NAME[name].apply(values(loss_fn=loss_fn), None), 4) == plain
    assert BY_NAME["logarithms guarded"].why_not(values(loss_fn=loss_fn), None)


def test_an_exponential_stays_within_its_format() -> None:
    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return (1000 * output).exp().log().square().mean()

    assert not math.isfinite(train(values(loss_fn=loss_fn, lr=0.1), 20)[-1])
    assert math.isfinite(train(BY_NAME["exponentials guarded"].apply(values(loss_fn=loss_fn, lr=0.1), None), 20)[-1])


def half(making: Any) -> Training:
    with making:
        training = classes()
        training.model.to(torch.bfloat16)
        training.model.half()
        x, y = blobs()
        training.batches = repeat(x.half(), y)
        training.metric = accuracy(x.half(), y)
        return training


def test_float32_undoes_half_precision_in_making_and_in_the_step() -> None:
    from contextlib import nullcontext

    change = BY_NAME["float32"]
    original = nn.Module.to, nn.Module.half
    assert train(change.apply(half(change.making()), None), 4) == pytest.approx(train(classes(), 4), rel=2e-3)
    assert original == (nn.Module.to, nn.Module.half)
    late = change.apply(half(nullcontext()), None)
    assert next(late.model.parameters()).dtype == torch.float32
    train(late, 2)
    assert 0 <= score(late) <= 1
    assert change.why_not(classes(), None) == "nothing is in half precision"


def test_autocast_of_the_step_is_switched_off() -> None:
    dtypes: list[torch.dtype] = []

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = training.model(x)
        dtypes.append(output.dtype)
        loss = training.loss_fn(output.float(), y)
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    train(classes(step=step), 1)
    losses = train(BY_NAME["float32"].apply(classes(step=step), None), 3)
    assert dtypes == [torch.bfloat16, *[torch.float32] * 3]
    assert losses == pytest.approx(train(classes(), 3))


def test_constants_that_overflowed_are_put_into_range() -> None:
    def make() -> Training:
        training = classes()
        training.model.register_buffer("mask", torch.tensor([1e10, -1e10, 1.0]).half())
        return training

    change = BY_NAME["constants within the range of the format"]
    assert change.apply(make(), None).model.mask.tolist() == [1e4, -1e4, 1.0]
    assert paste(make(), change.code(make(), None)).model.mask.tolist() == [1e4, -1e4, 1.0]
    assert change.why_not(classes(), None) == "no buffer has overflowed"


@pytest.mark.parametrize("name", ["smaller epsilon", "loss x 1e6"])
def test_gradients_below_epsilon_are_cured(name: str) -> None:
    def make() -> Training:
        training = values(lr=3e-2, loss_fn=lambda o, t: 1e-10 * functional.mse_loss(o, t))
        training.optimizer.param_groups[0]["weight_decay"] = 0.0
        return training

    sick, cured = make(), BY_NAME[name].apply(make(), None)
    train(sick, 80)
    train(cured, 80)
    assert score(sick) < 0.5
    assert score(cured) > 0.6
