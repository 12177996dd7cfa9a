"""Clues about loops: zeroing, modes, clipping, schedules, tiny batches."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases.small_trainings import CLASSES, FEATURES, classes, inspected, named, network, plain_step, training
from thalweg import Training


def accumulating(every: int, *, is_zeroed: bool = True) -> Callable[..., Tensor]:
    """Return a step that steps the optimizer at every so many batches."""
    count = itertools.count(1)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = subject.loss_fn(subject.model(x), y) / every
        loss.backward()
        if next(count) % every == 0:
            subject.optimizer.step()
            if is_zeroed:
                subject.optimizer.zero_grad()
        return loss.detach() * every

    return step


@pytest.mark.parametrize("every", [1, 2])
def test_gradients_that_are_never_zeroed(every: int) -> None:
    assert named(training(network(), step=accumulating(every, is_zeroed=False))) == [("no_zero_grad", "certain", None)]


@pytest.mark.parametrize("every", [1, 3, 8])
def test_accumulation_gives_no_clue(every: int) -> None:
    assert named(training(network(), step=accumulating(every))) == []


@pytest.mark.parametrize("to_none", [True, False])
def test_zeroing_by_hand_gives_no_clue(*, to_none: bool) -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.model.zero_grad(set_to_none=to_none)
        loss = subject.loss_fn(subject.model(x), y)
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    assert named(training(network(), step=step)) == []


def test_gradients_of_a_discriminator_that_are_zeroed_before_its_own_pass_give_no_clue() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"made": nn.Linear(FEATURES, FEATURES), "judge": network(1)})
    second = torch.optim.SGD(model["judge"].parameters(), lr=0.05)
    softplus = nn.functional.softplus

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        made = subject.model["made"](x)
        second.zero_grad()
        (softplus(-subject.model["judge"](x)) + softplus(subject.model["judge"](made.detach()))).mean().backward()
        second.step()
        subject.optimizer.zero_grad()
        loss = softplus(-subject.model["judge"](made)).mean()  # leaves gradients in the judge, too
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    first = torch.optim.SGD(model["made"].parameters(), lr=0.05)
    assert named(training(model, optimizer=first, step=step)) == []


def normalized(*, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers)


def test_a_model_that_was_left_in_evaluation_mode() -> None:
    assert named(training(normalized().eval())) == [("left_in_eval_mode", "certain", None)]
    assert named(training(normalized())) == []


def test_a_model_that_the_first_step_leaves_in_evaluation_mode() -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(subject, x, y)
        subject.model.eval()
        with torch.no_grad():
            subject.model(x)
        return loss

    kinds = [(kind, where) for kind, _, where in named(training(normalized(), step=step))]
    assert kinds == [("left_in_eval_mode", None)]

    def restoring(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = step(subject, x, y)
        subject.model.train()
        return loss

    assert named(training(normalized(), step=restoring)) == []


def test_frozen_normalizations_with_statistics_give_no_clue() -> None:
    model = normalized()
    for x, _ in classes():
        model(3 * x + 1)
    model[1].eval()
    assert named(training(model)) == []


def test_a_model_without_modes_may_be_in_evaluation_mode() -> None:
    assert named(training(network().eval())) == []
    torch.manual_seed(0)
    dropout = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, CLASSES)).eval()
    assert named(training(dropout)) == [("left_in_eval_mode", "possible", None)]


def clipped(bound: float, by: str) -> Callable[..., Tensor]:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(x), y)
        loss.backward()
        if by == "norm":
            nn.utils.clip_grad_norm_(subject.model.parameters(), bound)
        elif by == "value":
            nn.utils.clip_grad_value_(subject.model.parameters(), bound)
        else:
            for param in subject.model.parameters():
                param.grad.clamp_(-bound, bound)
        subject.optimizer.step()
        return loss.detach()

    return step


@pytest.mark.parametrize("by", ["norm", "value", "hand"])
def test_clipping_that_leaves_nothing(by: str) -> None:
    (clue,) = inspected(training(network(), step=clipped(1e-4, by)))
    assert (clue.kind, clue.certainty) == ("clip_too_small", "likely")
    assert 0 < clue.evidence["share of the update that is left"] < 0.02


def test_clipping_gives_no_clue_where_the_optimizer_ignores_the_scale_or_the_bound_is_usual() -> None:
    model = network()
    assert (
        named(training(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3), step=clipped(1e-3, "norm")))
        == []
    )
    assert named(training(network(), step=clipped(1.0, "norm"))) == []


@pytest.mark.filterwarnings("ignore:torch.cuda.amp")
def test_clipping_that_makes_gradients_nan_does_not_clip_too_much() -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(x), y) * 1e25  # the norm of its gradient is infinite in float32
        loss.backward()
        nn.utils.clip_grad_norm_(subject.model.parameters(), float("inf"))
        subject.optimizer.step()
        return loss

    assert "clip_too_small" not in {kind for kind, _, _ in named(training(network(), step=step))}


def test_a_scaler_of_losses_is_no_clipping() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(x), y)
        scaler.scale(loss).backward()
        scaler.step(subject.optimizer)
        scaler.update()
        return loss.detach()

    assert named(training(network(), step=step)) == []


def scheduled(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> Training:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = make(optimizer)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(subject, x, y)
        schedule.step()
        return loss

    return training(model, optimizer=optimizer, step=step)


SCHEDULES = torch.optim.lr_scheduler


def test_schedules_that_take_the_rate_away() -> None:
    assert named(scheduled(lambda o: SCHEDULES.ExponentialLR(o, 0.7))) == [("schedule_kills_lr", "likely", None)]
    assert named(scheduled(lambda o: SCHEDULES.StepLR(o, 5, 0.1))) == [("schedule_kills_lr", "likely", None)]
    assert named(scheduled(lambda o: SCHEDULES.ExponentialLR(o, 0.95))) == [("schedule_kills_lr", "possible", None)]


def test_schedules_that_are_right_give_no_clue() -> None:
    assert named(scheduled(lambda o: SCHEDULES.CosineAnnealingLR(o, 250))) == []
    assert named(scheduled(lambda o: SCHEDULES.OneCycleLR(o, 0.1, total_steps=260))) == []
    assert named(scheduled(lambda o: SCHEDULES.LinearLR(o, 1.0, 0.0, 300))) == []
    assert named(scheduled(lambda o: SCHEDULES.LambdaLR(o, lambda step: (step + 1) ** -0.5))) == []


def test_a_rate_that_the_step_multiplies_itself() -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(subject, x, y)
        subject.optimizer.param_groups[0]["lr"] *= 0.8
        return loss

    assert named(training(network(), step=step)) == [("schedule_kills_lr", "likely", None)]


def test_batch_normalization_of_tiny_batches() -> None:
    assert named(training(normalized(), classes(size=2))) == [("batchnorm_tiny_batch", "likely", "1")]
    assert named(training(normalized().requires_grad_(True), classes(size=16))) == []
    assert named(training(network(), classes(size=2))) == []
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))
    assert named(training(other, classes(size=2))) == []
