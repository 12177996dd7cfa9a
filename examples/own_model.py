"""A model of your own, its data read through a DataLoader.

thalweg compare examples/own_model.py:task --with sgd,momentum,adamw --budget 30s
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import thalweg


class Spiral(nn.Module):
    """Which of two spirals a point of the plane lies on."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 32), nn.Tanh())
        self.head = nn.Linear(32, 1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(points)).squeeze(1)


def loaders() -> thalweg.Splits:
    """600 points, split 60/20/20; each part is a DataLoader."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    turn = 3 * torch.rand(600, generator=generator)
    angle = 2 * turn + torch.pi * labels
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], dim=1)
    points += 0.1 * torch.randn(600, 2, generator=generator)
    parts = random_split(TensorDataset(points, labels.float()), [0.6, 0.2, 0.2], generator=generator)
    train, validation, test = (DataLoader(part, batch_size=60, shuffle=part is parts[0]) for part in parts)
    return thalweg.Splits(train, validation, test)


task = thalweg.Task(
    model=Spiral,
    loss=thalweg.supervised(nn.functional.binary_cross_entropy_with_logits),
    data=loaders,
    metric_name="log loss",
    passes=10,
)
