"""A variational autoencoder of digits, as people write it: Kingma & Welling 2014 on images of 8 by 8 pixels.

thalweg compare examples/vae.py:train --with momentum,adam,adamw --budget 60s
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

ORDER = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
IMAGES = torch.tensor(load_digits().data / 16, dtype=torch.float32)[ORDER]
TRAINING, VALIDATION, TEST = IMAGES[:1200], IMAGES[1200:1500], IMAGES[1500:]


class Autoencoder(nn.Module):
    """An encoder to eight latent variables, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def loss(self, images):
        """Return the negative evidence lower bound of a batch, in nats for each image."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        logits = self.decoder(code)
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + divergence) / len(images)


def train(make_optimizer, report):
    """Train for ten passes, and report the bound after each of them."""
    model = Autoencoder()
    optimizer = make_optimizer(model)
    for _ in range(10):
        for batch in TRAINING[torch.randperm(len(TRAINING))].split(64):
            optimizer.zero_grad()
            loss = model.loss(batch)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            report(model.loss(VALIDATION), train=loss, test=model.loss(TEST), metric_name="negative bound in nats")
