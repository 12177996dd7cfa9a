"""A physics-informed network: it solves the equation of a damped oscillator, u'' + 2 d u' + w² u = 0."""

import math

import torch
from torch import nn

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, POINTS = 300, 48
DAMPING, FREQUENCY = 1.0, 8.0


def solution(t):
    """Return the exact solution with u(0) = 1 and u'(0) = 0."""
    damped = math.sqrt(FREQUENCY**2 - DAMPING**2)
    return torch.exp(-DAMPING * t) * (torch.cos(damped * t) + DAMPING / damped * torch.sin(damped * t))


def derivative(u, t):
    """Return du/dt, by autograd."""
    return torch.autograd.grad(u.sum(), t, create_graph=True)[0]


def physics_loss(model, t):
    """Return the squared residual of the equation, with the initial conditions."""
    u = model(t)
    velocity = derivative(u, t)
    residual = derivative(velocity, t) + 2 * DAMPING * velocity + FREQUENCY**2 * u
    start = (u[0] - 1).square() + (velocity[0] / FREQUENCY).square()
    return (residual / FREQUENCY**2).square().mean() + start.sum()


def train(make_optimizer, report, steps=STEPS):
    """Train on fixed points; the learning rate decays exponentially to a tenth."""
    model = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    with torch.no_grad():
        model[0].weight *= 6
    optimizer = make_optimizer(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    t = torch.linspace(0, 1, POINTS).unsqueeze(1).requires_grad_()
    held_out = [torch.rand(size, 1, generator=torch.Generator().manual_seed(size)) for size in (200, 1000)]
    points = report_points(steps)
    for step in range(1, steps + 1):
        loss = physics_loss(model, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in points:
            with torch.no_grad():
                errors = [
                    ((model(t) - solution(t)).square().mean() / solution(t).square().mean()).sqrt().item()
                    for t in held_out
                ]
            report(errors[0], train=loss.item(), test=errors[1])


TRAINING = Training(
    name="oscillator",
    about="a physics-informed network for a damped oscillator, second derivatives by autograd",
    train=train,
    steps=STEPS,
    schedule="exponential to 0.1",
    metric="relative error of the solution",
    worst=1.0,
)
