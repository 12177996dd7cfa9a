"""Small trainings in their parts, for tests of changes: several architectures, losses, steps and data."""

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.tasks import Training

Batch = tuple[Any, ...]


def repeat(*parts: Tensor, size: int = 16, seed: int = 0) -> Iterator[Batch]:
    """Yield random batches of examples for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(parts[0]), (size,), generator=generator)
        yield tuple(part[rows] for part in parts)


def blobs(count: int = 128, classes: int = 3, features: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points of classes that a linear map tells apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = 3 * torch.eye(features)[:classes]
    return centres[labels] + 0.3 * torch.randn(count, features, generator=generator), labels


def curve(count: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and values of a smooth function, of mean 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    y = torch.tanh(x[:, :1]) + 0.5 * x[:, 1:2]
    return x, (y - y.mean()) / y.std()


def accuracy(x: Tensor, y: Tensor) -> Any:
    """Return a metric: the share of right classes."""
    return lambda model: (model(x).argmax(1) == y).float().mean().item()


def explained(x: Tensor, y: Tensor) -> Any:
    """Return a metric: the explained share of the variance."""
    return lambda model: 1 - ((model(x).reshape(y.shape) - y).square().mean() / y.var()).item()


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    """Return a perceptron."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [nn.Linear(inputs, outputs), *([activation()] if number < len(widths) - 2 else [])]
    return nn.Sequential(*layers, *([last] if last is not None else []))


def classes(
    model: nn.Module | None = None,
    lr: float = 0.1,
    loss_fn: Any = None,
    step: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Training:
    """Return a training of SGD on three classes."""
    torch.manual_seed(seed)
    model = mlp(4, 8, 8, 3) if model is None else model
    x, y = blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **settings)
    return Training(model, optimizer, repeat(x, y), loss_fn or nn.CrossEntropyLoss(), step, accuracy(*blobs(seed=1)))


def values(model: nn.Module | None = None, lr: float = 3e-3, loss_fn: Any = None, step: Any = None) -> Training:
    """Return a training of Adam on a smooth function."""
    torch.manual_seed(0)
    model = mlp(4, 8, 8, 1) if model is None else model
    x, y = curve()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=0.01)
    return Training(model, optimizer, repeat(x, y), loss_fn or functional.mse_loss, step, explained(*curve(seed=1)))


class Images(nn.Module):
    """Convolutions with batch normalization; activations are called in the text of ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.first(x)))
        x = torch.tanh(self.second(x)).mean((2, 3))
        return functional.softmax(self.head(x), dim=1)


def images() -> Training:
    """Return a training on images in batches of 4, by a step of its own that clips and schedules."""
    torch.manual_seed(0)
    model = Images()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 1, 6, 6, generator=generator), torch.randint(3, (64,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 1e-3)
        training.optimizer.step()
        schedule.step()
        return loss.detach()

    return Training(model, optimizer, repeat(x, y, size=4), nn.CrossEntropyLoss(), step, accuracy(x, y))


class Tokens(nn.Module):
    """Attention over tokens; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv = nn.Embedding(7, 8), nn.Linear(8, 24)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 7)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        return {"logits": self.head(x + functional.scaled_dot_product_attention(query, key, value))}


def tokens() -> Training:
    """Return a training on tokens with two groups of parameters."""
    torch.manual_seed(0)
    model = Tokens()
    tokens = torch.randint(7, (64, 5), generator=torch.Generator().manual_seed(0))
    groups = [{"params": model.embedding.parameters(), "lr": 1e-3}, {"params": [*model.qkv.parameters()]}]
    groups.append({"params": [*model.norm.parameters(), *model.head.parameters()], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=1e-2)

    def loss_fn(output: dict[str, Tensor], target: Tensor) -> Tensor:
        return functional.cross_entropy(output["logits"].flatten(0, 1), target.flatten())

    return Training(model, optimizer, repeat(tokens, tokens), loss_fn)


class Adversaries(nn.Module):
    """A generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = mlp(2, 8, 2), mlp(2, 8, 1)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def adversaries() -> Training:
    """Return the training of a GAN whose second optimizer only the step knows."""
    torch.manual_seed(0)
    model = Adversaries()
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=1e-3)
    second = torch.optim.Adam(model.discriminator.parameters(), lr=2e-3)

    def step(training: Training, noise: Tensor, real: Tensor) -> Tensor:
        fake = training.model.generator(noise)
        second.zero_grad()
        says_real, says_fake = training.model.discriminator(real), training.model.discriminator(fake.detach())
        (functional.softplus(-says_real).mean() + functional.softplus(says_fake).mean()).backward()
        second.step()
        training.optimizer.zero_grad()
        loss = functional.softplus(-training.model.discriminator(fake)).mean()
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    noise, real = torch.randn(64, 2), torch.randn(64, 2) + 3
    return Training(model, optimizer, repeat(noise, real), functional.mse_loss, step)


TRAININGS = {"classes": classes, "values": values, "images": images, "tokens": tokens, "adversaries": adversaries}


def train(training: Training, steps: int) -> list[float]:
    """Train and return the loss of each step."""
    batches = iter(training.batches)
    return [take_step(training, next(batches)) for _ in range(steps)]


def take_step(training: Training, batch: Batch) -> float:
    """Take a step, the plain one if the training has none of its own."""
    if training.step is not None:
        return float(training.step(training, *batch))
    *inputs, target = batch
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(*inputs), target)
    loss.backward()
    training.optimizer.step()
    return loss.item()


def score(training: Training) -> float:
    """Return the metric in evaluation mode."""
    training.model.eval()
    with torch.no_grad():
        value = training.metric(training.model)
    training.model.train()
    return float(value)


def pasted(training: Training, code: str, **names: Any) -> Training:
    """Return the training after lines that were pasted before it was returned."""
    step = inspect.unwrap(training.step) if training.step is not None else None
    scope = {
        **(step.__globals__ | inspect.getclosurevars(step).nonlocals if step is not None else {}),
        "model": training.model,
        "optimizer": training.optimizer,
        "batches": training.batches,
        "loss_fn": training.loss_fn,
        "step": training.step or (lambda training, *batch: _take_plain_step(training, batch)),
        "metric": training.metric,
        **names,
    }
    exec(compile(code, "<pasted>", "exec"), scope)  # noqa: S102
    names_of = ("model", "optimizer", "batches", "loss_fn", "step", "metric")
    return Training(*(scope[name] for name in names_of))


def _take_plain_step(training: Training, batch: Batch) -> Tensor:
    return torch.tensor(take_step(Training(training.model, training.optimizer, [], training.loss_fn), batch))
