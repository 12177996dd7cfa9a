"""A neural field: a network learns a photograph as a function of the place, from Fourier features of it."""

import math
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, FREQUENCIES = 250, 256, 24
ROWS, COLUMNS, STRIDE = slice(100, 356), slice(160, 480), 4


@cache
def pixels():
    """Return places (n, 2) from -1 to 1 and colors (n, 3) from 0 to 1, as training, validation and test."""
    from sklearn.datasets import load_sample_image

    image = torch.tensor(load_sample_image("china.jpg")[ROWS, COLUMNS][::STRIDE, ::STRIDE] / 255.0).float()
    axes = [torch.linspace(-1, 1, length) for length in image.shape[:2]]
    places, colors = torch.cartesian_prod(*axes), image.reshape(-1, 3)
    parts = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).split(
        [3000, 700, len(places) - 3700]
    )
    return [(places[part], colors[part]) for part in parts]


class FourierField(nn.Module):
    """Random Fourier features of the place, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", 2.5 * torch.randn(2, FREQUENCIES))
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3), nn.Sigmoid()
        )

    def forward(self, places):
        angles = math.pi * places @ self.waves
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


def psnr(model, split):
    """Return the peak signal-to-noise ratio, in decibels."""
    places, colors = split
    return -10 * functional.mse_loss(model(places), colors).log10()


def train(make_optimizer, report, steps=STEPS):
    """Train on random pixels; the learning rate halves each quarter."""
    train_split, validation, test = pixels()
    places, colors = train_split
    model = FourierField()
    optimizer = make_optimizer(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps // 4), gamma=0.5)
    points = report_points(steps)
    for step in range(1, steps + 1):
        index = torch.randint(len(places), (BATCH,))
        loss = functional.mse_loss(model(places[index]), colors[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in points:
            with torch.no_grad():
                report(psnr(model, validation), test=psnr(model, test))


TRAINING = Training(
    name="field",
    about="a photograph as a function of the place, Fourier features and a perceptron",
    train=train,
    steps=STEPS,
    schedule="halved each quarter",
    metric="PSNR in dB",
    worst=9.5,
    maximize=True,
    scale="linear",
    unit=10 / math.log(10),  # so that a regret of 0.03 is a mean squared error 3 % higher
    best_possible=40.0,
)
