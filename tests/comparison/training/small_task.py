"""A small regression, and the trainings of it that tests compare."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.runs import Trial
from thalweg.tasks import Splits, Task

SCHEDULE = TrainingSchedule(steps=30, schedule="linear", num_evaluations=3)
TRIALS = [Trial({"lr": lr}, seed) for lr, seed in ((0.01, 1), (0.03, 1), (0.1, 2))]


def small(count: int = 100, **changes: object) -> Task:
    """A small regression on so many examples, whose data and model can be changed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    parts = {
        "model": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)),
        "loss": thalweg.supervised(nn.functional.mse_loss),
        "data": (x, x.sum(1, keepdim=True).sin()),
        "batch_size": 16,
        "passes": 6,
    }
    return Task(**{**parts, **changes})


def loaders() -> Splits:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    return Splits(*(DataLoader(data, batch_size=10, shuffle=shuffle) for shuffle in (True, False, False)))
