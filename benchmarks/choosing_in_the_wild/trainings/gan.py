"""A generative adversarial network: two networks and two optimizers, on eight normal distributions in a ring."""

import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, NOISE = 250, 128, 4
HELD_OUT, TESTED = 500, 2000


def ring(count, generator=None):
    """Return samples of the ring, (count, 2)."""
    angles = torch.randint(8, (count,), generator=generator) * (2 * math.pi / 8)
    centers = torch.stack([angles.cos(), angles.sin()], dim=1)
    return centers + 0.1 * torch.randn(count, 2, generator=generator)


def make_generator():
    """Return a network from noise to places."""
    return nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def make_discriminator():
    """Return a network with bounded slopes (Miyato's spectral normalization)."""
    layers = [spectral_norm(nn.Linear(*shape)) for shape in ((2, 32), (32, 32), (32, 1))]
    return nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])


def energy_distance(generator, real):
    """Return the energy distance between samples of a generator and real ones; not a number if they are not finite."""
    x = generator(torch.randn(len(real), NOISE))
    return 2 * torch.cdist(x, real).mean() - torch.cdist(x, x).mean() - torch.cdist(real, real).mean()


def train(make_optimizer, report, steps=STEPS):
    """Train both networks in turn."""
    validation = ring(HELD_OUT, torch.Generator().manual_seed(1))
    test = ring(TESTED, torch.Generator().manual_seed(2))
    generator, discriminator = make_generator(), make_discriminator()
    generator_optimizer, discriminator_optimizer = make_optimizer(generator), make_optimizer(discriminator)
    points = report_points(steps)
    for step in range(1, steps + 1):
        fake = generator(torch.randn(BATCH, NOISE))
        loss = functional.softplus(-discriminator(ring(BATCH))).mean()
        loss = loss + functional.softplus(discriminator(fake.detach())).mean()
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        generator_loss = functional.softplus(-discriminator(fake)).mean()
        generator_optimizer.zero_grad()
        generator_loss.backward()
        generator_optimizer.step()
        if step in points:
            with torch.no_grad():
                final = energy_distance(generator, test) if step == steps else math.nan
                report(energy_distance(generator, validation), test=final)


TRAINING = Training(
    name="gan",
    about="samples of a ring of eight normal distributions, two perceptrons with an optimizer each",
    train=train,
    steps=STEPS,
    schedule="constant",
    metric="energy distance",
    worst=0.6,
)
