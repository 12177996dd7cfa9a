"""Architectures: trainings that work, in parts that a fault may replace.

Half of them set the thresholds of a diagnosis; the other half only judges it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.doctor.trainings import data
from benchmarks.doctor.trainings.data import Data
from benchmarks.doctor.trainings.models import (
    Attentive,
    Autoencoder,
    Convolutions,
    Perceptron,
    Recurrent,
    Shape,
    Transformer,
)
from benchmarks.doctor.trainings.run import Batch, Loss, Run, evaluated
from thalweg.tasks import Training
from thalweg.tasks.training import Step

Prepare = Callable[[nn.Module], None]
Transform = Callable[[Tensor, Tensor, torch.Generator], Batch]
BATCH = 64


def adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return Adam for all parameters of a model."""
    return torch.optim.Adam(model.parameters(), lr=lr)


def momentum(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return SGD with momentum for all parameters of a model."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


Metric = Callable[[nn.Module, Tensor, Tensor], float]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right classes."""
    return (model(x).argmax(-1) == y).float().mean().item()


def binary_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers of outputs that are positive for 1."""
    return ((model(x) > 0) == (y > 0.5)).float().mean().item()


def explained(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the explained share of the variance (R²)."""
    return 1 - ((model(x).reshape(y.shape) - y).square().mean() / (y - y.mean(0)).square().mean()).item()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of logits whose classes are the last dimension."""
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


@dataclass(frozen=True)
class Architecture:
    """A training that works.

    Attributes:
        name: Its name.
        task: ``classes``, ``binary``, ``values`` or ``tokens``.
        build: Makes a model of a shape.
        make_data: Makes the data from a seed.
        loss_fn: The loss.
        score: The metric.
        goal: The metric from which on the training works.
        lr: The learning rate of Adam.
        momentum_lr: The learning rate of SGD with momentum 0.9.
        shape: The shape of the model.
        held_out: True if it only judges, and sets no threshold.
        make_optimizer: Makes the optimizer of a model at a learning rate.
        batch_size: Examples in a batch.
        steps: Steps of a training.
        transform: Changes each batch; None for no change.
        change_data: Changes the data; None for no change.
        sorted_by_target: True if batches come in the order of the targets instead of shuffled.
        prepare: Changes the model before its optimizer is made; None for no change.
        after: Changes the run at its end; None for no change.
        step: The user's own step; None for the plain one.
    """

    name: str
    task: str
    build: Callable[[Shape], nn.Module]
    make_data: Callable[[int], Data]
    loss_fn: Loss
    score: Metric
    goal: float
    lr: float
    momentum_lr: float
    shape: Shape = Shape()
    held_out: bool = False
    make_optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = adam
    batch_size: int = BATCH
    steps: int = 250
    transform: Transform | None = None
    change_data: Callable[[Data, int], Data] | None = None
    sorted_by_target: bool = False
    prepare: Prepare | None = None
    after: Callable[[Run], Run] | None = None
    step: Step | None = None

    def shaped(self, **changes: Any) -> "Architecture":
        """Return this architecture with a changed shape."""
        return replace(self, shape=replace(self.shape, **changes))

    def with_momentum(self, factor: float = 1.0) -> "Architecture":
        """Return this architecture with SGD with momentum, at its own learning rate times a factor."""
        return replace(self, make_optimizer=momentum, lr=factor * self.momentum_lr)

    def run(self, seed: int) -> Run:
        """Return a training that has not begun."""
        torch.manual_seed(seed)
        examples = self.make_data(seed)
        if self.change_data is not None:
            examples = self.change_data(examples, seed)
        model = self.build(self.shape)
        if self.prepare is not None:
            self.prepare(model)
        training = Training(
            model=model,
            optimizer=self.make_optimizer(model, self.lr),
            batches=self._batches(examples, seed),
            loss_fn=self.loss_fn,
            step=self.step,
            metric=evaluated(lambda model: self.score(model, examples.held_out_x, examples.held_out_y)),
        )
        run = Run(training, self.goal, self.steps)
        return run if self.after is None else self.after(run)

    def _batches(self, examples: Data, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        count = len(examples.x)
        while True:
            order = torch.randperm(count, generator=generator)
            if self.sorted_by_target:
                order = examples.y.reshape(count, -1)[:, 0].argsort(stable=True)
            for start in range(0, count - self.batch_size + 1, self.batch_size):
                chosen = order[start : start + self.batch_size]
                x, y = examples.x[chosen], examples.y[chosen]
                yield (x, y) if self.transform is None else self.transform(x, y, generator)


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "mlp",
            "classes",
            lambda shape: Perceptron(64, 10, shape),
            data.digits,
            cross_entropy,
            accuracy,
            0.93,
            3e-3,
            0.05,
        ),
        Architecture(
            "rnn", "classes", lambda shape: Recurrent(10, shape), data.digits, cross_entropy, accuracy, 0.85, 5e-3, 0.1
        ),
        Architecture("autoencoder", "values", Autoencoder, data.pictures, nn.MSELoss(), explained, 0.6, 3e-3, 1.0),
        Architecture(
            "table",
            "binary",
            lambda shape: Perceptron(30, 1, shape),
            data.tumours,
            nn.BCEWithLogitsLoss(),
            binary_accuracy,
            0.94,
            3e-3,
            0.05,
        ),
        Architecture(
            "curve",
            "values",
            lambda shape: Perceptron(4, 1, shape),
            data.waves,
            nn.MSELoss(),
            explained,
            0.8,
            3e-3,
            0.02,
            shape=Shape(depth=2),
        ),
        Architecture(
            "attention",
            "classes",
            lambda shape: Attentive(10, shape),
            data.digits,
            cross_entropy,
            accuracy,
            0.87,
            3e-3,
            0.05,
            shape=Shape(depth=2),
        ),
        Architecture(
            "cnn",
            "classes",
            lambda shape: Convolutions(10, shape),
            data.digits,
            cross_entropy,
            accuracy,
            0.93,
            5e-3,
            0.05,
            held_out=True,
        ),
        Architecture(
            "residual",
            "values",
            lambda shape: Perceptron(8, 1, shape, residual=True),
            data.smooth,
            nn.MSELoss(),
            explained,
            0.85,
            3e-3,
            0.003,
            shape=Shape(norm=nn.LayerNorm, depth=4),
            held_out=True,
        ),
        Architecture("gpt", "tokens", Transformer, data.tokens, cross_entropy, accuracy, 0.9, 5e-3, 0.1, held_out=True),
    )
}
