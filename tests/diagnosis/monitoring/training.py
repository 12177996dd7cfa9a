"""A small training, and its steps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.monitoring import Monitor

STEPS = 12


def perceptron(*, activation: Callable[[], nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2))


def batches(count: int = STEPS, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(size, 4, generator=generator)
        yield x, torch.stack([x.sum(1), x.square().sum(1)], 1)


def train(model: Any, optimizer: Any, monitor: Monitor | None, *, count: int = STEPS) -> list[float]:
    losses = []
    for x, y in batches(count):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if monitor is not None:
            monitor.step(loss)
    return losses


def hooks_of(model: nn.Module, optimizer: Any = None) -> int:
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    if isinstance(optimizer, torch.optim.Optimizer):
        count += len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    return count


def step_on_sum(model: Any, optimizer: Any, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).sum()
    loss.backward()
    optimizer.step()
    return loss
