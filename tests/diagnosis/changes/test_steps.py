"""Changes of the optimizer: each alters one thing, whatever the user's step does with the groups."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from cases.trainings import adversaries, classes, images, repeat, take_step, tokens, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.diagnosis.changes import Change, SetLearningRate
from thalweg.diagnosis.changes.parts.optimizers import groups_of, optimizers_of
from thalweg.diagnosis.changes.steps import ScaleLearningRate
from thalweg.tasks import Training


def weights(training: Training) -> Tensor:
    return torch.cat([param.detach().flatten() for param in training.model.parameters()])


def first_update(training: Training, change: Change | None = None) -> Tensor:
    """Return what the first step adds to the weights."""
    if change is not None:
        change.apply(training, None)
    before = weights(training)
    take_step(training, next(iter(training.batches)))
    return weights(training) - before


@pytest.mark.parametrize(("name", "factor"), [("learning rate x 10", 10.0), ("learning rate / 100", 0.01)])
def test_the_learning_rate_of_each_step_is_scaled(name: str, factor: float) -> None:
    plain, changed = first_update(classes()), first_update(classes(), BY_NAME[name])
    torch.testing.assert_close(changed, factor * plain, rtol=1e-3, atol=1e-6)


def test_groups_keep_their_proportions_and_their_values() -> None:
    training = SetLearningRate(name="lr 0.05", cures=(), lr=0.05).apply(tokens(), None)
    during: list[list[float]] = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: during.append([group["lr"] for group in optimizer.param_groups])
    )
    train(training, 1)
    assert during[0] == pytest.approx([0.05, 0.5, 0.5])
    assert [group["lr"] for group in training.optimizer.param_groups] == [1e-3, 1e-2, 1e-2]


def test_a_scaled_rate_follows_a_schedule_of_the_step() -> None:
    changed = ScaleLearningRate(name="x 4", cures=(), factor=4.0).apply(images(), None)
    rates: list[float] = []
    changed.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
    )
    train(changed, 3)
    assert rates == pytest.approx([4e-2, 2e-2, 1e-2])


def test_a_constant_rate_ignores_a_schedule_of_the_step() -> None:
    training = BY_NAME["constant learning rate"].apply(images(), None)
    rates: list[float] = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
    )
    train(training, 3)
    assert rates == [1e-2, 1e-2, 1e-2]


def test_warm_up_rises_linearly() -> None:
    training = BY_NAME["warm-up over 100 steps"].apply(classes(lr=1.0), None)
    rates: list[float] = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
    )
    train(training, 102)
    assert rates[:2] == pytest.approx([0.01, 0.02])
    assert rates[98:] == pytest.approx([0.99, 1.0, 1.0, 1.0])


def test_optimizers_that_only_the_step_knows_are_found() -> None:
    training = adversaries()
    assert len(optimizers_of(training)) == 2
    names = {id(param) for group in groups_of(training) for param in group["params"]}
    assert names == {id(param) for param in training.model.parameters()}


class Both:
    """Two optimizers behind one that is no torch.optim.Optimizer."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.first, self.second = first, second
        self.param_groups = first.param_groups + second.param_groups

    def zero_grad(self) -> None:
        self.first.zero_grad()
        self.second.zero_grad()

    def step(self) -> None:
        self.first.step()
        self.second.step()


class Own:
    """An optimizer written by hand."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        self.param_groups = [{"params": params, "lr": lr}]

    def zero_grad(self) -> None:
        for param in self.param_groups[0]["params"]:
            param.grad = None

    def step(self) -> None:
        with torch.no_grad():
            for param in self.param_groups[0]["params"]:
                param.sub_(self.param_groups[0]["lr"] * param.grad)


@pytest.mark.parametrize("kind", ["both", "own"])
def test_other_objects_that_step_are_changed_too(kind: str) -> None:
    def make() -> Training:
        training = classes(lr=0.1)
        params = list(training.model.parameters())
        halves = torch.optim.SGD(params[:2], lr=0.1), torch.optim.SGD(params[2:], lr=0.1)
        training.optimizer = Both(*halves) if kind == "both" else Own(params, 0.1)  # type: ignore[assignment]
        return training

    torch.testing.assert_close(first_update(make()), first_update(classes(lr=0.1)))
    changed = first_update(make(), BY_NAME["learning rate x 10"])
    torch.testing.assert_close(changed, 10 * first_update(classes(lr=0.1)), rtol=1e-3, atol=1e-6)


def test_another_optimizer_steps_for_the_users_object() -> None:
    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()  # the object of the function that made the training
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    training = classes(lr=0.1, step=step)
    optimizer = training.optimizer
    reference = classes(lr=0.1)
    reference.optimizer = torch.optim.Adam(reference.model.parameters(), lr=1e-3)
    BY_NAME["Adam"].apply(training, None)
    assert train(training, 4) == pytest.approx(train(reference, 4))


def test_another_optimizer_follows_the_schedule_and_its_hooks_run() -> None:
    training = classes(lr=0.1)
    schedule = CosineAnnealingLR(training.optimizer, T_max=4)
    calls: list[int] = []
    BY_NAME["Adam"].apply(training, None)
    training.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    reference = classes()
    reference.optimizer = torch.optim.Adam(reference.model.parameters(), lr=1e-3)
    again = CosineAnnealingLR(reference.optimizer, T_max=4)
    for _ in range(4):
        batch = next(iter(training.batches))
        assert take_step(training, batch) == pytest.approx(take_step(reference, batch))
        schedule.step()
        again.step()
    assert len(calls) == 4


def test_a_setting_is_changed_in_all_groups_that_have_it() -> None:
    training = BY_NAME["no weight decay"].apply(tokens(), None)
    assert [group["weight_decay"] for group in training.optimizer.param_groups] == [0, 0, 0]
    assert "no group has a momentum" in BY_NAME["lower momentum"].why_not(tokens(), None)
    heavy = BY_NAME["lower momentum"].apply(classes(momentum=0.999), None)
    assert heavy.optimizer.param_groups[0]["momentum"] == 0.9
    assert "no group" in BY_NAME["lower momentum"].why_not(classes(momentum=0.5), None)


def test_decay_is_left_on_matrices() -> None:
    training = BY_NAME["no weight decay on norms and biases"].apply(tokens(), None)
    for group in training.optimizer.param_groups:
        if group["weight_decay"]:
            assert all(param.dim() > 1 for param in group["params"])
    held = [id(param) for group in training.optimizer.param_groups for param in group["params"]]
    assert sorted(held) == sorted(id(param) for param in training.model.parameters())
    scheduled = classes(weight_decay=0.1)
    LambdaLR(scheduled.optimizer, lambda step: 1.0)
    assert "scheduler" in BY_NAME["no weight decay on norms and biases"].why_not(scheduled, None)


def test_clipping_bounds_the_gradients_that_the_optimizer_gets() -> None:
    for name, norm in (("gradients clipped at norm 1", 1.0), ("gradients clipped at 0.1 by value", None)):
        training = values(loss_fn=lambda output, target: 1e3 * (output - target).square().mean())
        BY_NAME[name].apply(training, None)
        seen: list[Tensor] = []
        training.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs, seen=seen: seen.append(
                torch.cat([param.grad.flatten() for param in optimizer.param_groups[0]["params"]])
            )
        )
        train(training, 1)
        size = seen[0].norm().item() if norm is not None else seen[0].abs().max().item()
        assert size == pytest.approx(norm or 0.1, rel=1e-3)


def test_adaptive_clipping_is_that_of_the_rule() -> None:
    from thalweg import optim

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return 100 * (output - target).square().mean()

    training = classes(nn.Linear(4, 3), lr=0.1, loss_fn=nn.CrossEntropyLoss())
    reference = classes(nn.Linear(4, 3), lr=0.1, loss_fn=nn.CrossEntropyLoss())
    reference.model.load_state_dict(training.model.state_dict())
    reference.optimizer = optim.optimizer_for("clip_adaptive(sgd)")(reference.model.parameters(), lr=0.1)
    BY_NAME["adaptive clipping"].apply(training, None)
    assert train(training, 3) == pytest.approx(train(reference, 3), rel=1e-5)


def test_weights_are_clipped_after_each_step() -> None:
    training = classes(lr=100.0)
    BY_NAME["weights clipped at 1"].apply(training, None)
    train(training, 3)
    assert weights(training).abs().max() == 1.0


clip_norm = nn.utils.clip_grad_norm_


def clip_by_norm(params: list[Tensor]) -> None:
    nn.utils.clip_grad_norm_(params, 1e-3)


def clip_by_an_imported_function(params: list[Tensor]) -> None:
    clip_norm(params, max_norm=1e-3)


def clip_by_value(params: list[Tensor]) -> None:
    nn.utils.clip_grad_value_(params, clip_value=1e-5)


def clip_by_hand(params: list[Tensor]) -> None:
    for param in params:
        param.grad.clamp_(-1e-5, 1e-5)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_an_imported_function, clip_by_value, clip_by_hand])
def test_clipping_of_the_step_is_undone_however_it_is_written(clip: Any) -> None:
    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        clip(list(training.model.parameters()))
        training.optimizer.step()
        return loss.detach()

    original = nn.utils.clip_grad_norm_
    free = first_update(classes())
    clipped = first_update(classes(step=step))
    assert clipped.norm() < 0.05 * free.norm()
    torch.testing.assert_close(first_update(classes(step=step), BY_NAME["no clipping"]), free)
    assert nn.utils.clip_grad_norm_ is original is clip_norm


def test_wrappers_that_clip_are_widened() -> None:
    from thalweg import optim

    training = classes()
    training.optimizer = optim.optimizer_for("clip(sgd)")(training.model.parameters(), lr=0.1, max_norm=1e-3)
    torch.testing.assert_close(
        first_update(training, BY_NAME["no clipping"]), first_update(classes()), rtol=1e-4, atol=1e-7
    )


def test_nothing_clips_in_the_plain_step() -> None:
    assert BY_NAME["no clipping"].why_not(classes(), None) == "nothing clips"


def test_endless_and_finite_batches_stay_what_they_are() -> None:
    x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    training = classes()
    training.batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    BY_NAME["inputs normalized"].apply(training, None)
    assert len(list(training.batches)) == len(list(training.batches)) == 2
    endless = classes()
    endless.batches = repeat(x, y)
    first = next(repeat(x, y))
    BY_NAME["inputs normalized"].apply(endless, None)
    assert torch.equal(next(iter(endless.batches))[0], first[0])
