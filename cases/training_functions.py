"""The loop of training functions for tests of comparisons."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def minimized(make_optimizer: Callable[..., Any], steps: int = 2) -> float:
    """Minimize the mean square of two weights, and return the last loss."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = weight.square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()
