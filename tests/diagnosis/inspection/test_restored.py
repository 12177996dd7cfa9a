"""Inspection leaves a training, the process and the batches bit by bit as they were."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module

from cases.small_trainings import CLASSES, FEATURES, classes, inspected, plain_step, training
from thalweg import Training


def state_of(subject: Training, batches: list[tuple[Tensor, ...]]) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "model": subject.model.state_dict(),
            "modes": [module.training for module in subject.model.modules()],
            "grads": [param.grad for param in subject.model.parameters()],
            "requires": [param.requires_grad for param in subject.model.parameters()],
            "optimizer": subject.optimizer.state_dict(),
            "batches": batches,
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules()],
            "global hooks": [len(v) for k, v in vars(torch_module).items() if k.startswith("_global_forward")],
            "parameter hooks": [bool(param._backward_hooks) for param in subject.model.parameters()],
        }
    )


def assert_same(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for number, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{path}.{number}")
    else:
        assert a == b, path


def noisy_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(FEATURES, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(16, CLASSES),
    ]
    return nn.Sequential(*layers)


counted = {"calls": 0}
total = 0


def counting_step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
    """Take a step that changes globals, the random states of the process, its batch and the mode of the model."""
    global total
    total += 1
    counted["calls"] += 1
    random.random()
    np.random.rand()
    x.mul_(2)
    loss = plain_step(subject, x, y)
    subject.model[0].requires_grad_(False)
    subject.model.eval()
    return loss


@pytest.mark.parametrize("step", [None, counting_step])
@pytest.mark.parametrize("is_begun", [False, True])
def test_everything_ends_as_it_was(step: Any, *, is_begun: bool) -> None:
    batches, model = classes(), noisy_model()
    subject = training(model, batches, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), step=step)
    if is_begun:
        plain_step(subject, *batches[0])
    loss_fn, attributes = subject.loss_fn, {key: set(vars(m)) for key, m in model.named_modules()}
    before = state_of(subject, batches)
    parameters = list(model.parameters())
    inspected(subject)
    assert_same(before, state_of(subject, batches))
    assert subject.loss_fn is loss_fn
    assert subject.step is step
    assert {key: set(vars(m)) for key, m in model.named_modules()} == attributes
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert (counted["calls"], total) == (0, 0)
    assert torch.autograd.backward.__module__ == "torch.autograd"


def test_the_training_after_it_is_that_without_it() -> None:
    losses = []
    for is_inspected in (False, True):
        model = noisy_model()
        subject = training(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))
        if is_inspected:
            inspected(subject)
        torch.manual_seed(1)
        losses.append([float(plain_step(subject, *batch)) for batch in subject.batches])
    assert losses[0] == losses[1]


class Counter:
    """An object of the user's with slots, containers and a generator."""

    __slots__ = ("count", "history", "random")

    def __init__(self) -> None:
        self.count, self.history, self.random = 0, [], torch.Generator().manual_seed(5)


def test_what_the_step_holds_ends_as_it_was() -> None:
    model, counter = noisy_model(), Counter()
    second = torch.optim.Adam(model[4].parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(second, 2, 0.5)
    average = copy.deepcopy(model)
    calls = 0

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        counter.count += 1
        counter.history.append(float(torch.randn((), generator=counter.random)))
        loss = plain_step(subject, x, y)
        second.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), subject.model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return loss

    subject = training(model, step=step)
    before = copy.deepcopy(
        (average.state_dict(), second.state_dict(), schedule.state_dict(), counter.random.get_state())
    )
    inspected(subject)
    after = average.state_dict(), second.state_dict(), schedule.state_dict(), counter.random.get_state()
    assert_same(before, after)
    assert (calls, counter.count, counter.history) == (0, 0, [])


def test_a_step_that_raises_leaves_nothing_behind() -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        plain_step(subject, x, y)
        raise ValueError("of the user")

    batches, model = classes(), noisy_model()
    subject = training(model, batches, step=step)
    before = state_of(subject, batches)
    assert inspected(subject) == []
    assert_same(before, state_of(subject, batches))


def test_models_whose_methods_are_closures_are_looked_at_themselves() -> None:
    model = noisy_model()
    forward = model.forward
    model.forward = lambda x: forward(x).softmax(-1)
    assert [clue.kind for clue in inspected(training(model, loss_fn=functional.cross_entropy))] == [
        "softmax_before_cross_entropy"
    ]


def test_no_batches_give_no_clue() -> None:
    assert inspected(training(noisy_model(), []), []) == []
