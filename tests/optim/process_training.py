"""A training for a process of its own. It imports torch alone, so that a spawned process starts soon."""

import torch


def take_steps(params: list[torch.Tensor], optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    torch.set_num_threads(1)
    for _ in range(num_steps):
        for param in params:
            param.grad = param.detach() - 1.0
        optimizer.step()
