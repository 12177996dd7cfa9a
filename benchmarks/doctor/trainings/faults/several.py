"""Trainings with several losses: adversarial, variational, and of values that are their own targets."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.doctor.trainings import data
from benchmarks.doctor.trainings.cases import own_fault
from benchmarks.doctor.trainings.run import Batch, Run, evaluated
from thalweg.tasks import Training

NOISE = 4


@dataclass(frozen=True)
class Ring:
    """Points around equally spaced centres on a circle.

    Attributes:
        centres: Number of centres.
        radius: Radius of the circle.
        shift: Both coordinates of its middle.
    """

    centres: int
    radius: float
    shift: float = 0.0

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points of shape ``(count, 2)``."""
        angle = torch.randint(self.centres, (count,), generator=generator) * (2 * torch.pi / self.centres)
        middle = self.shift + self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        return middle + 0.1 * torch.randn(count, 2, generator=generator)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the energy distance of two samples."""
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()


class Adversaries(nn.Module):
    """A generator of points and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def adversarial(seed: int, ring: Ring, *, discriminator_lr: float = 4e-3, goal: float, wins: bool = False) -> Run:
    """Return the training of a GAN.

    Args:
        seed: The seed.
        ring: The data.
        discriminator_lr: The learning rate of the discriminator.
        goal: The negative energy distance from which on it works.
        wins: True for twenty steps of the discriminator for each of the generator's, whose loss saturates.
    """
    torch.manual_seed(seed)
    model, generator = Adversaries(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    second = torch.optim.Adam(model.discriminator.parameters(), lr=discriminator_lr, betas=(0.5, 0.99))

    def batches() -> Iterator[Batch]:
        while True:
            yield torch.randn(64, NOISE, generator=generator), ring.sample(64, generator)

    def discriminate(model: nn.Module, fake: Tensor, real: Tensor) -> None:
        second.zero_grad()
        says_real, says_fake = model.discriminator(real), model.discriminator(fake.detach())
        (functional.softplus(-says_real).mean() + functional.softplus(says_fake).mean()).backward()
        second.step()

    def step(training: Training, noise: Tensor, real: Tensor) -> Tensor:
        model = training.model
        for _ in range(20 if wins else 0):
            discriminate(model, model.generator(torch.randn(64, NOISE, generator=generator)), real)
        fake = model.generator(noise)
        if not wins:
            discriminate(model, fake, real)
        training.optimizer.zero_grad()
        says = model.discriminator(fake)
        loss = torch.log1p(-says.sigmoid() + 1e-7).mean() if wins else functional.softplus(-says).mean()
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    held_out = ring.sample(512, torch.Generator().manual_seed(900))
    noise = torch.randn(512, NOISE, generator=torch.Generator().manual_seed(901))
    metric = evaluated(lambda model: -energy_distance(model(noise), held_out).item())
    # The loss function of the plain loop is not used.
    return Run(Training(model, optimizer, batches(), functional.mse_loss, step, metric), goal=goal, steps=300)


EIGHT, THREE = Ring(8, 2.0), Ring(3, 1.0, 1.5)


@own_fault("gan_discriminator_wins", "gan", "discriminator", held_out=True)
def many_discriminator_steps(seed: int, sick: bool) -> Run:
    """Twenty steps of the discriminator for each of the generator's, whose loss saturates."""
    return adversarial(seed, EIGHT, discriminator_lr=1e-2 if sick else 4e-3, goal=-0.25, wins=sick)


@own_fault("gan_discriminator_wins", "small-gan", "discriminator")
def fast_discriminator(seed: int, sick: bool) -> Run:
    """The discriminator learns two hundred times as fast as the generator."""
    return adversarial(seed, THREE, discriminator_lr=0.2 if sick else 4e-3, goal=-0.3)


class Variational(nn.Module):
    """An autoencoder with a normal distribution of its code."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.decoder(code), mean, log_variance


@own_fault("posterior_collapse", "vae")
def posterior_collapse(seed: int, sick: bool) -> Run:
    """The divergence outweighs the reconstruction, so the code carries nothing."""
    torch.manual_seed(seed)
    examples, model = data.pictures(seed), Variational()
    weight = 3.0 if sick else 0.02

    def loss(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        decoded, mean, log_variance = output
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        return (decoded - target).square().sum(-1).mean() + weight * divergence

    def metric(model: nn.Module) -> float:
        decoded = model(examples.held_out_x)[0]
        truth = examples.held_out_y
        return 1 - ((decoded - truth).square().mean() / (truth - truth.mean(0)).square().mean()).item()

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = torch.randint(len(examples.x), (64,), generator=generator)
            yield examples.x[chosen], examples.y[chosen]

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Run(Training(model, optimizer, batches(), loss, metric=evaluated(metric)), goal=0.3, steps=250)


def temporal_difference(seed: int, *, inputs: int, copy_of_itself: bool, lr: float) -> Run:
    """Return the training of a value of states, of which the better of three next ones follows.

    Its target holds the value itself, which moves with each step; the cure is a copy that follows slowly.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 1))
    slow = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    moves = 0.7 * torch.randn(3, inputs, generator=generator)

    def batches() -> Iterator[Batch]:
        while True:
            state = 2 * torch.randn(64, inputs, generator=generator)
            yield state, 0.9 * state[:, None] + moves

    def step(training: Training, state: Tensor, following: Tensor) -> Tensor:
        value = slow if copy_of_itself else training.model
        with torch.no_grad():
            reward = 0.1 * (3 - following.norm(dim=-1))
            target = (reward + 0.99 * value(following).squeeze(-1)).amax(1)
        training.optimizer.zero_grad()
        loss = (training.model(state)[:, 0] - target).square().mean()
        loss.backward()
        training.optimizer.step()
        with torch.no_grad():
            for mine, second in zip(slow.parameters(), training.model.parameters(), strict=True):
                mine.lerp_(second, 0.01)
        return loss.detach()

    probe = 2 * torch.randn(256, inputs, generator=torch.Generator().manual_seed(900))
    metric = evaluated(lambda model: -model(probe).abs().max().item())  # no true value is far from 0
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return Run(Training(model, optimizer, batches(), functional.mse_loss, step, metric), goal=-25.0, steps=300)


@own_fault("bootstrap_divergence", "values")
def bootstrap_divergence(seed: int, sick: bool) -> Run:
    """The target is the network itself."""
    return temporal_difference(seed, inputs=8, copy_of_itself=not sick, lr=0.1)


@own_fault("bootstrap_divergence", "more-values", held_out=True)
def wider_divergence(seed: int, sick: bool) -> Run:
    """The same with more inputs and a smaller rate."""
    return temporal_difference(seed, inputs=16, copy_of_itself=not sick, lr=0.02)
