"""Changes of trainings with several losses, and those that leave a poor minimum or a plateau."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.trainings import adversaries, classes, mlp, paste, repeat, take_step, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg import optim
from thalweg.diagnosis.changes import ESCAPES
from thalweg.diagnosis.changes.escape import GradientNoise, PerturbedRestarts, Restarts, ThenOther
from thalweg.tasks import Training


@pytest.mark.parametrize("where", ["discriminator", "generator", None])
def test_only_the_discriminator_is_slowed_down(where: str | None) -> None:
    def updates(training: Training) -> tuple[float, float]:
        before = copy.deepcopy(training.model)
        train(training, 1)
        parts = ("generator", "discriminator")
        return tuple(  # type: ignore[return-value]
            max(
                (a - b).abs().max().item()
                for a, b in zip(
                    before.get_submodule(part).parameters(),
                    training.model.get_submodule(part).parameters(),
                    strict=True,
                )
            )
            for part in parts
        )

    generator, discriminator = updates(adversaries())
    change = BY_NAME["discriminator's learning rate / 10"]
    slow = updates(change.apply(adversaries(), where))
    assert slow == pytest.approx((generator, discriminator / 10), rel=1e-2)
    assert "lr=0.0002 instead of 0.002" in change.code(adversaries(), where)
    assert change.why_not(classes(), None) == "no group holds a discriminator alone"


def test_without_names_the_discriminator_is_what_makes_no_output() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.north, self.south = mlp(4, 8, 2), mlp(2, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.north(x)

    model = Pair()
    first = torch.optim.SGD(model.south.parameters(), lr=0.3)  # the training's own optimizer steps the discriminator
    second = torch.optim.SGD(model.north.parameters(), lr=0.5)

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        first.step()
        second.step()
        return y.sum()

    training = Training(model, first, repeat(torch.rand(8, 4), torch.rand(8, 2)), functional.mse_loss, step)
    BY_NAME["discriminator's learning rate / 10"].apply(training, None)
    assert [optimizer.param_groups[0]["lr"] for optimizer in (first, second)] == pytest.approx([0.03, 0.5])


class Values(nn.Module):
    """A network of values inside a model, as in Q-learning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(("inner", "cut"), [(False, "no_grad"), (True, "no_grad"), (False, "detach"), (True, "detach")])
def test_targets_of_a_slow_copy_keep_values_bounded(inner: bool, cut: str) -> None:
    def step(training: Training, state: Tensor, following: Tensor) -> Tensor:
        values = training.model.net if inner else training.model
        training.optimizer.zero_grad()
        if cut == "detach":
            target = 1.0 + 1.05 * values(following).detach()
        else:
            with torch.no_grad():
                target = 1.0 + 1.05 * values(following)
        loss = (values(state) - target).square().mean()
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    def make() -> Training:
        torch.manual_seed(0)
        state = torch.rand(64, 4)
        return Training(model := Values(), torch.optim.Adam(model.parameters(), lr=1e-2), repeat(state, 1.5 * state),
                        functional.mse_loss, step)  # fmt: skip

    change = BY_NAME["targets of a slow copy"]
    sick, cured = make(), change.apply(make(), "net")
    train(sick, 150)
    train(cured, 150)
    x = torch.ones(1, 4)
    assert cured.model(x).abs().item() < 0.5 * sick.model(x).abs().item()
    assert cured.model(x).requires_grad
    with torch.no_grad():  # outside the step the model answers itself
        torch.testing.assert_close(cured.model(x), cured.model.net[2](cured.model.net[1](cured.model.net[0](x))))
    assert change.why_not(classes(), None) == "the plain step computes no targets"
    compile(change.code(make(), "net"), "<pasted>", "exec")


def test_the_weight_of_a_divergence_is_lowered_where_it_is_in_reach() -> None:
    def make() -> Training:
        beta, scale = 3.0, 2.0

        def loss_fn(output: Tensor, target: Tensor) -> Tensor:
            return scale * functional.mse_loss(output, target) + beta * output.square().mean()

        return values(loss_fn=loss_fn)

    output, target = torch.ones(2, 1), torch.zeros(2, 1)
    change = BY_NAME["divergence weighted / 100"]
    assert change.code(make(), None) == "beta = 0.03  # was 3"
    assert change.apply(make(), None).loss_fn(output, target).item() == pytest.approx(2.03)
    assert make().loss_fn(output, target).item() == 5.0
    held = classes()
    held.model.kl_weight = 5.0
    assert change.apply(held, None).model.kl_weight == pytest.approx(0.05)
    assert change.why_not(values(), None) == "no weight of a divergence is in reach"


def test_noise_fades_as_the_rule_says() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point = nn.Parameter(torch.zeros(20000))

        def forward(self, x: Tensor) -> Tensor:
            return self.point.sum() * 2.0

    training = classes(Flat(), lr=1.0, loss_fn=lambda output, target: output)
    change = GradientNoise(name="noise", cures=(), share=0.5, fading=0.55)
    change.apply(training, None)
    deviations = []
    for _ in range(3):
        take_step(training, next(iter(training.batches)))
        deviations.append(training.model.point.grad.std().item())
    assert deviations == pytest.approx([2 * 0.5 / (1 + k) ** 0.275 for k in range(3)], rel=0.03)
    assert training.model.point.grad.mean().item() == pytest.approx(2.0, abs=0.03)


def test_restarts_follow_the_rule() -> None:
    training = classes(lr=0.01)
    Restarts(name="restarts", cures=(), period=4, peak=10.0).apply(training, None)
    rates: list[float] = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
    )
    train(training, 6)
    period = [0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert rates == pytest.approx([*period, 0.1, 0.1 * (1 + math.cos(math.pi / 8)) / 2])


@pytest.mark.parametrize("switch_at", [2, 0])
def test_optimizers_take_turns(switch_at: int) -> None:
    training, reference = classes(), classes()
    change = ThenOther(
        name="other",
        cures=(),
        make=lambda params, lr: torch.optim.Adam(params, lr=0.01),
        spelling="torch.optim.Adam(params, lr=0.01)",
        switch_at=switch_at,
    )
    change.apply(training, None)
    again = paste(classes(), change.code(classes(), None))
    other = torch.optim.Adam(reference.model.parameters(), lr=0.01)
    own = reference.optimizer
    expected = []
    for step in range(5):
        others = step >= switch_at if switch_at else step % 2 == 1
        reference.optimizer = other if others else own
        expected.append(take_step(reference, next(reference.batches)))
    assert train(training, 5) == pytest.approx(expected)
    assert train(again, 5) == pytest.approx(expected)
    assert training.model[0].weight.grad is not None


def test_a_switch_is_that_of_the_rule() -> None:
    training = classes()
    training.optimizer = optim.SGD(training.model.parameters(), lr=0.1, backend="loop")
    switched = classes()
    switched.optimizer = torch.optim.SGD(switched.model.parameters(), lr=0.1)
    change = ThenOther(
        name="momentum",
        cures=(),
        make=lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        spelling="",
        switch_at=3,
    )
    assert train(change.apply(training, None), 6) == pytest.approx(train(change.apply(switched, None), 6), rel=1e-5)


def test_a_restart_begins_near_the_best_weights_and_ends_at_them() -> None:
    class Valley(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point = nn.Parameter(torch.tensor([3.0, -3.0]))

        def forward(self, x: Tensor) -> Tensor:
            return (self.point.square() - 1).square().sum() + 0.5 * self.point.sum()

    training = classes(Valley(), lr=0.01, loss_fn=lambda output, target: output)
    change = PerturbedRestarts(name="restarts", cures=(), every=20, share=1.0, restarts=3)
    change.apply(training, None)
    losses = train(training, 120)
    jumps = [step for step in range(2, 120) if losses[step] > losses[step - 1] + 0.1]
    assert jumps
    assert set(jumps) <= {20, 40, 60}
    assert losses[80] == pytest.approx(min(losses[:80]), abs=0.02)  # the last stretch begins at the best weights
    assert losses[-1] <= min(losses[10:]) + 1e-3
    assert losses[-1] < losses[19]


class Step(nn.Module):
    """A point on a surface with a poor minimum at 1 and a good one at -1."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([1.2]))

    def forward(self, x: Any) -> Tensor:
        return ((self.point.square() - 1).square() + 0.3 * self.point).sum()


def test_some_escapes_leave_a_poor_minimum() -> None:
    def trained(change: Any) -> float:
        training = classes(Step(), lr=0.02, loss_fn=lambda output, target: output)
        if change is not None:
            change.apply(training, None)
        train(training, 300)
        return training.model.point.item()

    assert trained(None) > 0.9
    assert {change.name for change in ESCAPES if trained(change) < -0.9} >= {"restarts from perturbed weights"}
