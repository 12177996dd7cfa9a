"""An LSTM forecasts a made series: two seasons, a slow trend and noise that remembers."""

import math
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, WINDOW = 120, 32, 20
LENGTHS = (1200, 400, 1400)


@cache
def forecasting_splits():
    """Return windows (n, WINDOW, 1) and the value after each (n, 1), for training, validation and test."""
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    time = torch.arange(float(total))
    noise = torch.randn(total, generator=generator)
    remembered = torch.zeros(total)
    for k in range(1, total):
        remembered[k] = 0.8 * remembered[k - 1] + 0.25 * noise[k]
    seasons = torch.sin(2 * math.pi * time / 12) * (1 + 0.5 * torch.sin(2 * math.pi * time / 97))
    series = seasons + 0.6 * torch.sign(torch.sin(2 * math.pi * time / 31)) + remembered
    parts = series.split(LENGTHS)
    return [(part.unfold(0, WINDOW, 1)[:-1].unsqueeze(-1), part[WINDOW:].unsqueeze(-1)) for part in parts]


class Forecaster(nn.Module):
    """An LSTM whose last state predicts the next value."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 20, batch_first=True)
        self.output = nn.Linear(20, 1)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.output(states[:, -1])


def train(make_optimizer, report, steps=STEPS):
    """Train with clipped gradients; the learning rate follows a cosine."""
    (windows, targets), validation, test = forecasting_splits()
    model = Forecaster()
    optimizer = make_optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    points = report_points(steps, 5)
    for step in range(1, steps + 1):
        index = torch.randint(len(windows), (BATCH,))
        loss = functional.mse_loss(model(windows[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step in points:
            with torch.no_grad():
                score = functional.mse_loss(model(validation[0]), validation[1])
                final = functional.mse_loss(model(test[0]), test[1]) if step == steps else math.nan
            report(score, train=loss.item(), test=final)


TRAINING = Training(
    name="series",
    about="the next value of a series from 20 values, an LSTM of 20 units, clipping",
    train=train,
    steps=STEPS,
    schedule="cosine",
    metric="mean squared error",
    worst=1.2,
)
