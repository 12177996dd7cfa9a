"""A variational autoencoder of handwritten digits."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import digits, report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, LATENT = 320, 64, 8


class VAE(nn.Module):
    """Encodes an image as a normal distribution and decodes a sample of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


def negative_elbo(model, x):
    """Return the negative evidence lower bound per image, in nats."""
    logits, mean, log_variance = model(x)
    reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return (reconstruction + divergence) / len(x)


def train(make_optimizer, report, steps=STEPS):
    """Train at a constant learning rate."""
    (images, _), (validation, _), (test, _) = digits()
    model = VAE()
    optimizer = make_optimizer(model, roles={"decoder.2.weight": "head"})
    points = report_points(steps)
    for step in range(1, steps + 1):
        batch = images[torch.randint(len(images), (BATCH,))]
        loss = negative_elbo(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in points:
            with torch.no_grad():
                scores = [negative_elbo(model, x).item() for x in (validation, test)]
            report(scores[0], train=loss.item(), test=scores[1])


TRAINING = Training(
    name="vae",
    about="digits, a perceptron with 8 latent variables, constant learning rate",
    train=train,
    steps=STEPS,
    schedule="constant",
    metric="negative evidence lower bound",
    worst=44.5,
)
