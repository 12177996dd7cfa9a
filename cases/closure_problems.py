"""Problems for optimizers that call a closure, and their training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg import optim

Problem = tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]
WOLFE = {"line_search_fn": "strong_wolfe"}
SMALL: dict[str, Any] = {"max_iter": 6, "history_size": 3, "lr": 0.3}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares() -> Problem:
    matrix, target = drawn(30, 8), drawn(30, seed=1)
    start = [torch.zeros(5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    return start, lambda params: (matrix @ torch.cat(params) - target).square().mean()


def rosenbrock() -> Problem:
    start = [torch.tensor([-1.2, 1.0], dtype=torch.float64)]
    return start, lambda params: (1 - params[0][0]) ** 2 + 100 * (params[0][1] - params[0][0] ** 2) ** 2


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


# A problem, settings, and how many steps are compared: rounding is magnified by the inverse Hessian.
CASES = [
    (least_squares, {}, 8),
    (least_squares, {"lr": 0.1}, 8),
    (least_squares, WOLFE, 8),
    (least_squares, SMALL, 8),
    (least_squares, SMALL | {"max_eval": 4}, 8),
    (least_squares, SMALL | WOLFE | {"max_eval": 4}, 8),
    (least_squares, {"tolerance_grad": 0.1}, 2),
    (least_squares, {"tolerance_change": 0.1}, 2),
    (rosenbrock, {"lr": 1e-3}, 8),
    (rosenbrock, WOLFE, 3),
    (rosenbrock, SMALL | WOLFE, 4),
    (rosenbrock, WOLFE | {"max_eval": 9, "max_iter": 100}, 4),
    (network, {}, 2),
    (network, SMALL, 6),
    (network, WOLFE, 2),
    (network, SMALL | WOLFE, 6),
    (network, WOLFE | {"tolerance_change": 1e-3}, 3),
]


class OneIteration(optim.LBFGS):
    """One iteration a step with the gradients that the kit has set."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure or (lambda: 1.0))


def one_iteration(params: Any) -> OneIteration:
    return OneIteration(params, lr=0.1, max_iter=1, history_size=5)
