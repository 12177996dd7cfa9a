"""Tasks from algebra, without noise: sums modulo a prime, and the factorization of a matrix."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.tasks.data import Batch, Splits, split_at_random
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task

_MODULUS = 59
_RANK = 4


def _sums() -> Splits:
    pairs = torch.cartesian_prod(torch.arange(_MODULUS), torch.arange(_MODULUS))
    return split_at_random((pairs, pairs.sum(1) % _MODULUS), train=0.8, validation=0.1)


class ModularSum(nn.Module):
    """Sums the embeddings of two numbers and passes them through a hidden layer to a score for each remainder."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.numbers = nn.Embedding(_MODULUS, width)
        # With a standard deviation of 1 the model memorizes the pairs: Adam's test loss ends at 1.7 instead of 0.12.
        nn.init.normal_(self.numbers.weight, std=0.1)
        self.scores = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, _MODULUS))

    def forward(self, pairs: Tensor) -> Tensor:  # (pairs, 2) -> (pairs, remainders)
        return self.scores(self.numbers(pairs).sum(1))


class MatrixFactorization(nn.Module):
    """The mean squared difference between L Rᵀ and a fixed random 40 x 30 matrix of rank 4.

    Training starts near L = R = 0, a saddle point, where the gradient vanishes.
    """

    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(0.1 * torch.randn(40, _RANK))
        self.right = nn.Parameter(0.1 * torch.randn(30, _RANK))
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(length, _RANK, generator=generator) for length in (40, 30))
        # Each direction has about half of the weight of the one before, so that training learns one after the other.
        self.register_buffer("target", left * torch.logspace(0, -1, _RANK) @ right.T)

    def forward(self) -> Tensor:
        return (self.left @ self.right.T - self.target).square().mean()


def modular_addition() -> Task:
    """Add two numbers modulo 59, trained on 80% of all pairs: embeddings and a hidden layer of 128 units."""
    return Task(
        name="modular-addition",
        about="(a + b) mod 59 from 80% of all pairs, embeddings and a perceptron with 128 hidden units",
        model=lambda: ModularSum(width=32, hidden=128),
        loss=supervised(functional.cross_entropy),
        data=_sums,
        metric_name="cross-entropy",
        batch_size=64,
        passes=30,
    )


def _own_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model()


def matrix_factorization() -> Task:
    """Factorize a fixed 40 x 30 matrix of rank 4 into two narrow matrices: not convex, lowest loss 0."""
    return Task(
        name="matrix-factorization",
        about="a 40 x 30 matrix of rank 4 as the product of two narrow ones",
        model=MatrixFactorization,
        loss=_own_loss,
        metric_name="mean squared error",
        passes=300,
        optimum=0.0,
        roles={"left": "embedding", "right": "embedding"},  # each row belongs to one index, as a word's does
    )
