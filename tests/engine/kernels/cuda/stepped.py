"""Parameters, and steps of optimizers on them."""

from typing import Any

import torch
from torch import Tensor


def filled(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return parameters of these shapes, with other values at each place."""
    return [
        (torch.cos(torch.arange(torch.Size(shape).numel()) + k).view(shape).to(dtype)).requires_grad_()
        for k, shape in enumerate(shapes)
    ]


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], num_steps: int = 3, first: int = 0) -> None:
    """Take steps with gradients at new addresses."""
    for step in range(first, first + num_steps):
        for param in params:
            param.grad = torch.sin(3 * param.detach() + step)
        optimizer.step()


def on_loop(make: Any, shapes: list[tuple[int, ...]], num_steps: int = 3) -> list[Tensor]:
    """Return the parameters after steps on the loop."""
    params = filled(shapes)
    train(make(params, backend="loop"), params, num_steps)
    return params
