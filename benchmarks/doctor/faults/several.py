"""Trainings with several losses: adversarial, variational, and of values that are their own targets."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.doctor import data
from benchmarks.doctor.cases import own_fault
from benchmarks.doctor.run import Run, evaluated
from thalweg.tasks import Training

NOISE = 4


def _ring(count: int, generator: torch.Generator) -> Tensor:
    angle = torch.randint(8, (count,), generator=generator) * (torch.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.05 * torch.randn(count, 2, generator=generator)


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


def adversarial(seed: int, *, repeats: int, discriminator_lr: float, steps: int = 300) -> Run:
    """Return the training of a GAN whose discriminator takes so many steps for each of the generator's."""
    torch.manual_seed(seed)
    model, generator = Adversaries(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    second = torch.optim.Adam(model.discriminator.parameters(), lr=discriminator_lr, betas=(0.5, 0.99))

    def batches():
        while True:
            yield torch.randn(64, NOISE, generator=generator), _ring(64, generator)

    def step(training: Training, noise: Tensor, real: Tensor) -> Tensor:
        for _ in range(repeats):
            second.zero_grad()
            fake = training.model.generator(torch.randn(64, NOISE, generator=generator)).detach()
            says_real, says_fake = training.model.discriminator(real), training.model.discriminator(fake)
            loss = functional.softplus(-says_real).mean() + functional.softplus(says_fake).mean()
            loss.backward()
            second.step()
        training.optimizer.zero_grad()
        fooled = torch.log1p(-training.model.discriminator(training.model.generator(noise)).sigmoid() + 1e-7).mean()
        fooled.backward()
        training.optimizer.step()
        return fooled.detach()

    def gentle(training: Training, noise: Tensor, real: Tensor) -> Tensor:
        second.zero_grad()
        fake = training.model.generator(noise)
        says_real, says_fake = training.model.discriminator(real), training.model.discriminator(fake.detach())
        (functional.softplus(-says_real).mean() + functional.softplus(says_fake).mean()).backward()
        second.step()
        training.optimizer.zero_grad()
        loss = functional.softplus(-training.model.discriminator(fake)).mean()
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    held_out = _ring(512, torch.Generator().manual_seed(900))
    noise = torch.randn(512, NOISE, generator=torch.Generator().manual_seed(901))
    metric = evaluated(lambda model: -energy_distance(model(noise), held_out).item())
    # The loss of the plain loop is not used.
    training = Training(model, optimizer, batches(), functional.mse_loss, step if repeats > 1 else gentle, metric)
    return Run(training, goal=-0.25, steps=steps)


@own_fault("gan_discriminator_wins", "gan", "generator", held_out=True)
def gan_discriminator_wins(seed: int, sick: bool) -> Run:
    """Twenty steps of the discriminator for each of the generator's, whose loss saturates."""
    return adversarial(seed, repeats=20 if sick else 1, discriminator_lr=1e-2 if sick else 2e-3)


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

    def batches():
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = torch.randint(len(examples.x), (64,), generator=generator)
            yield examples.x[chosen], examples.y[chosen]

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Run(Training(model, optimizer, batches(), loss, metric=evaluated(metric)), goal=0.3, steps=250)


@own_fault("bootstrap_divergence", "values")
def bootstrap_divergence(seed: int, sick: bool) -> Run:
    """Temporal differences whose targets move with each step; the cure is a copy that follows slowly."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    slow = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    slow.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    discount = 0.97

    def batches():
        while True:
            state = torch.rand(64, 4, generator=generator)
            yield state, torch.cat([(state * 3).clamp(max=4), state.sum(1, keepdim=True)], 1)

    def step(training: Training, state: Tensor, following: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        target_model = training.model if sick else slow
        with torch.no_grad():
            target = following[:, 4:] + (discount if sick else 0.9) * target_model(following[:, :4] if sick else state)
        loss = (training.model(state) - target).square().mean()
        loss.backward()
        training.optimizer.step()
        if not sick:
            with torch.no_grad():
                for mine, second in zip(slow.parameters(), training.model.parameters(), strict=True):
                    mine.lerp_(second, 0.02)
        return loss.detach()

    probe = torch.rand(256, 4, generator=torch.Generator().manual_seed(900))
    metric = evaluated(lambda model: -model(probe).abs().max().item())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    training = Training(model, optimizer, batches(), functional.mse_loss, step, metric)
    return Run(training, goal=-100.0, steps=250)
