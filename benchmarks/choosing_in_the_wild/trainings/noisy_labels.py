"""Digits whose training labels are wrong in 30 % of the cases; validation and test are clean."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import digits, report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, WRONG = 300, 64, 0.3


@cache
def noisy_digits():
    """Return the splits of the digits, with wrong labels in the training split."""
    (images, labels), validation, test = digits()
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < WRONG
    shift = torch.randint(1, 10, (len(labels),), generator=generator)
    return (images, torch.where(wrong, (labels + shift) % 10, labels)), validation, test


def train(make_optimizer, report, steps=STEPS):
    """Train with OneCycle, whose peak is the learning rate of the optimizer."""
    (images, labels), *held_out = noisy_digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 10))
    optimizer = make_optimizer(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps + 1, cycle_momentum=False)
    points = report_points(steps)
    for step in range(1, steps + 1):
        index = torch.randint(len(images), (BATCH,))
        loss = functional.cross_entropy(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in points:
            model.eval()
            with torch.no_grad():
                scores = [functional.cross_entropy(model(x), y) for x, y in held_out]
            model.train()
            report(scores[0], train=loss.item(), test=scores[1])


TRAINING = Training(
    name="noisy-labels",
    about="digits with 30 % wrong labels, a perceptron with dropout, OneCycle",
    train=train,
    steps=STEPS,
    schedule="OneCycle",
    metric="cross-entropy",
    worst=2.31,
)
