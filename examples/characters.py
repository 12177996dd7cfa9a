"""A small character model in the manner of nanoGPT: its loop sets the learning rate at every step.

The rate is a share of the optimizer's own, ``optimizer.defaults["lr"]``. A loop that set a number of its own would
train all settings alike; thalweg refuses it and names the line.

thalweg compare examples/characters.py:train --with adam,adamw,lion --budget 2m
"""

import math
import pydoc_data.topics

import torch
from torch import nn

TEXT = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
LETTERS = sorted(set(TEXT))
CODES = torch.tensor([LETTERS.index(letter) for letter in TEXT[:200_000]])
TRAINING, VALIDATION, TEST = CODES[:160_000], CODES[160_000:180_000], CODES[180_000:]
LENGTH, WIDTH, STEPS, WARM_UP = 32, 48, 150, 15


class Characters(nn.Module):
    """A transformer with one block over the last 32 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS))

    def forward(self, codes):
        """Return the logits of the next character at each place, (batch, LENGTH, letters)."""
        x = self.embedding(codes) + self.place(torch.arange(LENGTH))
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.head(self.norm(self.block(x, src_mask=mask, is_causal=True)))


def batch_of(codes, count, generator=None):
    """Return the characters at random places, and the characters that follow them, each (count, LENGTH)."""
    starts = torch.randint(len(codes) - LENGTH, (count, 1), generator=generator)
    places = starts + torch.arange(LENGTH + 1)
    return codes[places[:, :-1]], codes[places[:, 1:]]


def cross_entropy(model, codes, targets):
    """Return the cross-entropy of the next character."""
    return nn.functional.cross_entropy(model(codes).flatten(0, 1), targets.flatten())


def train(make_optimizer, report):
    """Train with warm-up and cosine, accumulation over two micro-batches, and clipping."""
    model = Characters()
    optimizer = make_optimizer(model)
    held_out = [batch_of(part, 200, torch.Generator().manual_seed(0)) for part in (VALIDATION, TEST)]
    for step in range(STEPS):
        progress = (step - WARM_UP) / (STEPS - WARM_UP)
        factor = (step + 1) / WARM_UP if step < WARM_UP else 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * factor
        optimizer.zero_grad()
        for _ in range(2):
            loss = cross_entropy(model, *batch_of(TRAINING, 16)) / 2
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            with torch.no_grad():
                validation, test = (cross_entropy(model, *batch) for batch in held_out)
            report(validation, train=2 * loss, test=test, metric_name="cross-entropy in nats")
