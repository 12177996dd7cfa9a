"""A siamese network learns from pairs of digits whether they show the same one (Hadsell's contrastive loss)."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import digits, report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, BATCH, MARGIN = 200, 64, 1.0
KNOWN, PAIRS = 500, (1000, 4000)


def pairs(split, count, generator=None):
    """Return pairs of images and whether they show the same digit, half of them the same."""
    images, labels = split
    first = torch.randint(len(labels), (count,), generator=generator)
    same = torch.arange(count) % 2 == 0
    matches = (labels[first].unsqueeze(1) == labels.unsqueeze(0)) == same.unsqueeze(1)
    second = torch.multinomial(matches.float(), 1, generator=generator).squeeze(1)
    return images[first], images[second], same.float()


@cache
def held_out_pairs():
    """Return fixed pairs of the validation and of the test images."""
    generator = torch.Generator().manual_seed(0)
    return [pairs(split, count, generator) for split, count in zip(digits()[1:], PAIRS, strict=True)]


def contrastive_loss(model, batch):
    """Return the squared distance of equal pairs, and how far different pairs are within the margin, squared."""
    first, second, same = batch
    distance = functional.pairwise_distance(model(first), model(second))
    return (same * distance.square() + (1 - same) * (MARGIN - distance).clamp(min=0).square()).mean()


def train(make_optimizer, report, steps=STEPS):
    """Train one encoder on both images of each pair; the learning rate follows a cosine."""
    images, labels = digits()[0]
    known = images[:KNOWN], labels[:KNOWN]
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = make_optimizer(encoder)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    points = report_points(steps, 5)
    for step in range(1, steps + 1):
        loss = contrastive_loss(encoder, pairs(known, BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in points:
            with torch.no_grad():
                scores = [contrastive_loss(encoder, batch) for batch in held_out_pairs()]
            report(scores[0], train=loss.item(), test=scores[1])


TRAINING = Training(
    name="contrastive",
    about="whether two digits are the same, a siamese perceptron with a contrastive loss",
    train=train,
    steps=STEPS,
    schedule="cosine",
    metric="contrastive loss",
    worst=0.42,
)
