"""Problems for optimizers with closures, and their training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Problem = tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]


WOLFE = {"line_search_fn": "strong_wolfe"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares() -> Problem:
    matrix, target = drawn(30, 8), drawn(30, seed=1)
    start = [torch.zeros(5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    return start, lambda params: (matrix @ torch.cat(params) - target).square().mean()


def network() -> Problem:
    inputs = drawn(64, 4)
    target = inputs.sum(1, keepdim=True).sin()
    start = [0.5 * drawn(*shape, seed=k) for k, shape in enumerate(((4, 8), (8,), (8, 1), (1,)))]

    def loss(params: list[Tensor]) -> Tensor:
        first, bias, second, shift = params
        return (torch.tanh(inputs @ first + bias) @ second + shift - target).square().mean()

    return start, loss


class Training:
    """A problem, its optimizer and its closure; `evaluations` has the parameters, loss and gradient of each call."""

    def __init__(self, kind: Any, problem: Problem, *, sign: float = 1.0, **settings: Any) -> None:
        start, self.loss = problem
        self.params = [param.detach().clone().requires_grad_() for param in start]
        self.sign = sign
        self.evaluations: list[tuple[Tensor, float, Tensor]] = []
        self.optimizer = kind(self.params, **settings)

    def closure(self) -> Tensor:
        assert torch.is_grad_enabled()
        self.optimizer.zero_grad()
        loss = self.sign * self.loss(self.params)
        loss.backward()
        grads = [torch.zeros_like(param) if param.grad is None else param.grad for param in self.params]
        self.evaluations.append(
            (self.at(), float(loss.detach()), torch.cat([grad.flatten().clone() for grad in grads]))
        )
        return loss

    def at(self) -> Tensor:
        return torch.cat([param.detach().flatten().clone() for param in self.params])

    def steps(self, count: int) -> list[Tensor]:
        """Take some steps and return the parameters after each."""
        ends = []
        for _ in range(count):
            self.optimizer.step(self.closure)
            ends.append(self.at())
        return ends


SMALL: dict[str, Any] = {"max_iter": 6, "history_size": 3, "lr": 0.3}
