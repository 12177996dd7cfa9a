"""A table with categories: embeddings and a perceptron predict who buys."""

import math
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH = 240, 96
SIZES = (2000, 800, 4000)
CATEGORIES, NUMBERS = (80, 30, 12, 7, 4), 5


@cache
def table():
    """Return categories (n, 5), numbers (n, 5) and whether there was a sale (n,), as training, validation and test."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    count = sum(SIZES)
    # Few categories are frequent and many are rare, as in a shop.
    columns = [(torch.rand(count, generator=generator).pow(2) * size).long() for size in CATEGORIES]
    numbers = normal(count, NUMBERS)
    effects = [normal(size) for size in CATEGORIES]
    score = sum(effect[column] for effect, column in zip(effects, columns, strict=True)) * 0.8
    score = score + normal(CATEGORIES[0])[columns[0]] * numbers[:, 0] + 1.5 * numbers[:, 1] * numbers[:, 2].sign()
    sold = (torch.rand(count, generator=generator) < torch.sigmoid(score)).float()
    whole = (torch.stack(columns, dim=1), numbers, sold)
    return list(zip(*(part.split(SIZES) for part in whole), strict=True))


class TabularNet(nn.Module):
    """An embedding for each category, and a perceptron on these and the numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [min(8, (size + 1) // 2) for size in CATEGORIES]
        self.embeddings = nn.ModuleList(map(nn.Embedding, CATEGORIES, widths))
        self.layers = nn.Sequential(
            nn.Linear(sum(widths) + NUMBERS, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 24), nn.ReLU()
        )
        self.output = nn.Linear(24, 1)

    def forward(self, categories, numbers):
        embedded = [embedding(categories[:, k]) for k, embedding in enumerate(self.embeddings)]
        return self.output(self.layers(torch.cat([*embedded, numbers], dim=1))).squeeze(1)


def loss_of(model, categories, numbers, sold):
    """Return the logistic loss."""
    return functional.binary_cross_entropy_with_logits(model(categories, numbers), sold)


def train(make_optimizer, report, steps=STEPS):
    """Train at a constant learning rate, each epoch in a new order."""
    train_split, validation, test = table()
    model = TabularNet()
    optimizer = make_optimizer(model)
    points = report_points(steps)
    order = torch.randperm(SIZES[0])
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = torch.randperm(SIZES[0])
        index, order = order[:BATCH], order[BATCH:]
        loss = loss_of(model, *(part[index] for part in train_split))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in points:
            model.eval()
            with torch.no_grad():
                final = loss_of(model, *test) if step == steps else math.nan
                report(loss_of(model, *validation), train=loss.item(), test=final)
            model.train()


TRAINING = Training(
    name="tabular",
    about="sales from five categories and five numbers, embeddings and a perceptron with dropout",
    train=train,
    steps=STEPS,
    schedule="constant",
    metric="logistic loss",
    worst=0.72,
)
