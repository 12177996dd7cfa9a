"""Fine-tuning: a network that knows the digits 0 to 4 learns 5 to 9 from few images, in two parameter groups."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import digits, report_points
from benchmarks.choosing_in_the_wild.training import ELEMENTWISE, Training

STEPS, BATCH, EXAMPLES, BODY_SHARE = 160, 16, 80, 0.1


def make_body():
    """Return the layers that are kept."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())


@cache
def pretrained():
    """Return the weights of a body that was trained on the digits 0 to 4."""
    (images, labels), _, _ = digits()
    images, labels = images[labels < 5], labels[labels < 5]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body, head = make_body(), nn.Linear(32, 5)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)
        for _ in range(200):
            index = torch.randint(len(images), (32,))
            optimizer.zero_grad()
            functional.cross_entropy(head(body(images[index])), labels[index]).backward()
            optimizer.step()
    return body.state_dict()


def new_digits(split):
    """Return the images of 5 to 9, with labels from 0."""
    images, labels = split
    return images[labels >= 5], labels[labels >= 5] - 5


def train(make_optimizer, report, steps=STEPS):
    """Train head and body; the body's learning rate is a tenth of the head's, and both decay linearly."""
    (images, labels), *held_out = map(new_digits, digits())
    images, labels = images[:EXAMPLES], labels[:EXAMPLES]
    body, head = make_body(), nn.Linear(32, 5)
    body.load_state_dict(pretrained())
    optimizer = make_optimizer([{"params": body.parameters()}, {"params": head.parameters()}])
    optimizer.param_groups[0]["lr"] *= BODY_SHARE
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    points = report_points(steps, 5)
    for step in range(1, steps + 1):
        index = torch.randint(EXAMPLES, (BATCH,))
        loss = functional.cross_entropy(head(body(images[index])), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in points:
            with torch.no_grad():
                scores = [functional.cross_entropy(head(body(x)), y) for x, y in held_out]
            report(scores[0], train=loss.item(), test=scores[1])


TRAINING = Training(
    name="fine-tuning",
    about="digits 5 to 9 from 80 images, a body trained on 0 to 4 in a group of its own with a tenth of the rate",
    train=train,
    steps=STEPS,
    schedule="linear",
    metric="cross-entropy",
    worst=1.8,
    contenders=ELEMENTWISE,  # routing reads a whole model, and the script passes groups
)
