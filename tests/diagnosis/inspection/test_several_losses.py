"""Networks that train against each other, and targets that follow the network itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.diagnosis.inspection import inspect
from thalweg.tasks import Training

BATCHES = [(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(16)) for _ in range(8)]


def clues(model: nn.Module, step: Callable[..., Any], optimizer: torch.optim.Optimizer) -> list[tuple[str, str, Any]]:
    training = Training(model, optimizer, BATCHES, nn.functional.mse_loss, step)
    found = inspect(training, BATCHES)
    return [
        (c.kind, c.certainty, c.where) for c in found if c.kind in ("gan_discriminator_wins", "bootstrap_divergence")
    ]


@pytest.mark.parametrize(("lr", "times", "expected"), [(1e-3, 1, []), (0.2, 1, ["south"]), (5e-3, 20, ["south"])])
def test_a_discriminator_that_moves_far_more_is_named_by_its_part_in_the_step(
    lr: float, times: int, expected: list[str]
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"north": nn.Linear(4, 4), "south": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))}
    )
    first = torch.optim.Adam(model["north"].parameters(), lr=1e-3)
    second = torch.optim.Adam(model["south"].parameters(), lr=lr)

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        north, south = training.model["north"], training.model["south"]
        for _ in range(times):
            second.zero_grad()
            (nn.functional.softplus(-south(x)) + nn.functional.softplus(south(north(x).detach()))).mean().backward()
            second.step()
        first.zero_grad()
        loss = nn.functional.softplus(-south(north(x))).mean()
        loss.backward()
        first.step()
        return loss.detach()

    assert clues(model, step, first) == [("gan_discriminator_wins", "likely", where) for where in expected]


def _cut_by_no_grad(value: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return value(x)


def _cut_by_detach(value: nn.Module, x: Tensor) -> Tensor:
    return value(x).detach()


@pytest.mark.parametrize(
    ("target", "is_own"),
    [(_cut_by_no_grad, True), (_cut_by_detach, True), (lambda value, x: x[:, :1], False)],
)
def test_targets_of_the_network_itself(target: Callable[..., Tensor], is_own: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (training.model(x) - target(training.model, x + 1)).square().mean()
        loss.backward()
        optimizer.step()
        _cut_by_no_grad(training.model, x)  # an evaluation is no target
        return loss.detach()

    assert clues(model, step, optimizer) == ([("bootstrap_divergence", "possible", None)] if is_own else [])
