"""The six optimizers in NumPy and in thalweg: the same start, batches and settings, and how far the paths differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import thalweg
from lesson import numpy_optimizers
from lesson.numpy_optimizers import descend, full_batches, random_batches

# Name in tables: the class in NumPy, the class of thalweg, and the settings of both apart from lr.
SIX = {
    "gradient descent": (numpy_optimizers.SGD, thalweg.optim.SGD, {}),
    "SGD": (numpy_optimizers.SGD, thalweg.optim.SGD, {}),
    "momentum": (numpy_optimizers.Momentum, thalweg.optim.SGD, {"momentum": 0.9}),
    "AdaGrad": (numpy_optimizers.AdaGrad, thalweg.optim.AdaGrad, {"eps": 1e-10}),
    "RMSprop": (numpy_optimizers.RMSprop, thalweg.optim.RMSprop, {"alpha": 0.99, "eps": 1e-8}),
    "Adam": (numpy_optimizers.Adam, thalweg.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
}
LEARNING_RATES = [float(f"{digit}e{power}") for power in range(-3, 1) for digit in (1, 2, 5)] + [10.0]


@dataclass(frozen=True, eq=False)
class Problem:
    """A loss to minimize, once in NumPy and once in PyTorch.

    Attributes:
        gradient: Takes θ and a batch of indices; returns the gradient of the mean loss of the batch.
        start: θ before the first step.
        make_model: Makes the model of PyTorch in float64, with the parameters of `start`.
        torch_loss: Takes the model and a batch of indices; returns the mean loss of the batch.
        count: Number of examples.
        batch_size: Examples in a batch.
        steps: Number of steps of a training.
        on_batches: Names of the optimizers that step on batches. All others step on all examples.
    """

    gradient: Callable
    start: np.ndarray
    make_model: Callable[[], nn.Module]
    torch_loss: Callable
    count: int
    batch_size: int
    steps: int
    on_batches: frozenset[str] = frozenset({"SGD"})

    def batches(self, name: str) -> list[np.ndarray]:
        """Return the indices of the examples of every step of an optimizer."""
        if name in self.on_batches:
            return random_batches(self.count, self.batch_size, self.steps)
        return full_batches(self.count, self.steps)


@lru_cache(maxsize=100)
def numpy_path(problem: Problem, name: str, lr: float) -> np.ndarray:
    """Train in NumPy, and return θ before the first step and after each."""
    kind, _, settings = SIX[name]
    return descend(kind(lr=lr, **settings), problem.gradient, problem.start, problem.batches(name))


@lru_cache(maxsize=100)
def thalweg_path(problem: Problem, name: str, lr: float) -> np.ndarray:
    """Train by thalweg with autograd, and return θ before the first step and after each."""
    _, kind, settings = SIX[name]
    model = problem.make_model()
    optimizer = kind(model.parameters(), lr=lr, **settings)
    path = [parameters_to_vector(model.parameters()).detach().numpy()]
    for batch in problem.batches(name):
        optimizer.zero_grad()
        problem.torch_loss(model, torch.from_numpy(batch)).backward()
        optimizer.step()
        path.append(parameters_to_vector(model.parameters()).detach().numpy())
    return np.array(path)


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of two paths, relative to the largest parameter of the first."""
    return float(np.abs(first - second).max() / np.abs(first).max())


def steps_to_settle(excess: np.ndarray, tolerance: float = 0.01) -> int | None:
    """Return after how many steps the excess loss stays within a tolerance.

    None if it is outside in the last tenth of the training: a loss that still swings may be inside by chance.
    """
    outside = np.flatnonzero(~(excess <= tolerance))
    steps = int(outside[-1]) + 1 if len(outside) else 0
    return steps if steps <= 0.9 * len(excess) else None


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, all others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    for line in lines:
        first, *rest = (
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())
