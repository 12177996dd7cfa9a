"""A training loop of your own: thalweg gives it an optimizer and listens to what it reports.

thalweg compare examples/own_training.py:train --with sgd,adam --budget 30s
"""

import torch
from torch import nn


def train(make_optimizer, report):
    """Learn the greater of two numbers, stopping early."""
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = make_optimizer(model)
    held_out = torch.rand(200, 2)
    best = float("inf")
    for step in range(120):
        inputs = torch.rand(32, 2)
        loss = nn.functional.mse_loss(model(inputs), inputs.amax(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                error = nn.functional.mse_loss(model(held_out), held_out.amax(1, keepdim=True)).item()
            report(error, train=loss.item())
            if error > 2 * best:
                return
            best = min(best, error)
