"""A physics-informed network, as people write it: a damped oscillator from its equation and its start alone.

The loss differentiates the network twice. The step takes a closure, so that L-BFGS can take part.

thalweg compare examples/oscillator.py:train --with rmsprop,adam,lbfgs --budget 60s
"""

import torch
from torch import nn

DAMPING, FREQUENCY = 0.4, 4.0
RATE = (FREQUENCY**2 - DAMPING**2) ** 0.5


def solution(time):
    """Return the exact solution, which the training never sees."""
    return torch.exp(-DAMPING * time) * (torch.cos(RATE * time) + DAMPING / RATE * torch.sin(RATE * time))


def residual(model, time):
    """Return how far the network is from the equation u'' + 2 d u' + w² u = 0 with u(0) = 1 and u'(0) = 0."""
    time = time.clone().requires_grad_()
    u = model(time)
    (du,) = torch.autograd.grad(u.sum(), time, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), time, create_graph=True)
    equation = ddu + 2 * DAMPING * du + FREQUENCY**2 * u
    return 1e-2 * equation.square().mean() + (u[0] - 1).square().sum() + 1e-1 * du[0].square().sum()


def error(model, time):
    """Return the relative squared error of the network at these times."""
    with torch.no_grad():
        return (model(time) - solution(time)).square().mean() / solution(time).square().mean()


def train(make_optimizer, report):
    """Train for 300 steps, and report the error at other times than those trained at."""
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = make_optimizer(model)
    points, validation, test = (torch.linspace(0, 3, count)[:, None] for count in (51, 100, 128))

    def closure():
        optimizer.zero_grad()
        loss = residual(model, points)
        loss.backward()
        return loss

    for step in range(300):
        loss = optimizer.step(closure)
        if step % 50 == 49:
            report(error(model, validation), train=loss, test=error(model, test), metric_name="relative error")
