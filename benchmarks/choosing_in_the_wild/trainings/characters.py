"""A character model with gradient accumulation and its own schedule: warm-up, then half a cosine."""

import math
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training
from thalweg.tasks.built_in.text import pinned_text

STEPS, MICRO_BATCHES, BATCH = 120, 2, 12
CONTEXT, WIDTH, HEADS, CODES = 24, 32, 2, 128
WARM_UP, MIN_SHARE = 0.1, 0.1


@cache
def text_splits():
    """Return the codes of the training, validation and test characters."""
    codes = torch.tensor(list(pinned_text().encode("ascii", "replace")))
    return codes[:27_000], codes[27_000:32_000], codes[32_000:]


class TinyGPT(nn.Module):
    """One block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CODES, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.norm_1, self.norm_2, self.norm_3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.lm_head = nn.Linear(WIDTH, CODES, bias=False)

    def forward(self, codes):
        x = self.tokens(codes) + self.positions.weight
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(-2))
        x = x + self.mlp(self.norm_2(x))
        return self.lm_head(self.norm_3(x))


def windows(codes, starts):
    """Return inputs and targets that begin at these places."""
    places = starts.unsqueeze(1) + torch.arange(CONTEXT)
    return codes[places], codes[places + 1]


def loss_of(model, batch):
    """Return the cross-entropy of the next character."""
    inputs, targets = batch
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def lr_share(step, steps):
    """Return the share of the learning rate at a step."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return MIN_SHARE + (1 - MIN_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def train(make_optimizer, report, steps=STEPS):
    """Train with two micro-batches a step and clipped gradients."""
    codes, validation, test = text_splits()
    model = TinyGPT()
    optimizer = make_optimizer(model)
    lrs = [group["lr"] for group in optimizer.param_groups]
    points = report_points(steps, 5)
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * lr_share(step, steps)
        optimizer.zero_grad()
        for _ in range(MICRO_BATCHES):
            batch = windows(codes, torch.randint(len(codes) - CONTEXT - 1, (BATCH,)))
            (loss_of(model, batch) / MICRO_BATCHES).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step + 1 in points:
            with torch.no_grad():
                score = loss_of(model, windows(validation, torch.arange(0, len(validation) - CONTEXT - 1, CONTEXT)))
                held_out = None
                if step + 1 == steps:
                    held_out = loss_of(model, windows(test, torch.arange(0, len(test) - CONTEXT - 1, CONTEXT)))
            report(score, test=math.nan if held_out is None else held_out)


TRAINING = Training(
    name="characters",
    about="the next character of Python's help texts, one transformer block, two micro-batches a step, clipping",
    train=train,
    steps=STEPS,
    schedule="warm-up, then cosine to 0.1",
    metric="cross-entropy",
    worst=math.log(CODES),
)
