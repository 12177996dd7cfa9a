"""Data that are not what the training needs."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.data import Data
from benchmarks.doctor.trainings.run import Batch


def _shifted(factor: float, shift: float) -> Callable[[Data, int], Data]:
    def change(examples: Data, seed: int) -> Data:
        return replace(examples, x=factor * (examples.x + shift), held_out_x=factor * (examples.held_out_x + shift))

    return change


@fault("inputs_not_normalised", on=("mlp", "rnn", "table", "curve", "cnn", "residual"))
def inputs_not_normalised(architecture: Architecture) -> Pair:
    """Inputs in raw units, far from zero."""
    base = architecture.with_momentum()
    if architecture.name == "residual":
        base = base.shaped(norm=None)
        base = replace(base, lr=0.01)
    return Pair(replace(base, change_data=_shifted(50.0, 3.0)).run, base.run)


def _raw_targets(examples: Data, seed: int) -> Data:
    return replace(examples, y=40 * examples.y + 1000, held_out_y=40 * examples.held_out_y + 1000)


@fault("targets_not_normalised", on=("autoencoder", "curve", "residual"))
def targets_not_normalised(architecture: Architecture) -> Pair:
    """Targets of a thousand, with a deviation of forty."""
    return Pair(replace(architecture, change_data=_raw_targets).run, architecture.run)


@fault("inputs_constant", on=("mlp", "rnn", "table", "attention", "cnn", "gpt"))
def inputs_constant(architecture: Architecture) -> Pair:
    """A mistake in reading gives the same input for every example."""

    def repeated(x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        return torch.zeros_like(x) + (x.new_tensor(3) if not x.is_floating_point() else 0.1), y

    return Pair(replace(architecture, transform=repeated).run, architecture.run)


def _permuted(examples: Data, seed: int) -> Data:
    order = torch.randperm(len(examples.y), generator=torch.Generator().manual_seed(seed))
    return replace(examples, y=examples.y[order])


@fault("labels_misaligned", on=("mlp", "rnn", "table", "curve", "cnn", "residual"))
def labels_misaligned(architecture: Architecture) -> Pair:
    """Inputs and targets were shuffled apart."""
    return Pair(replace(architecture, change_data=_permuted).run, architecture.run)


def _balanced(model: nn.Module, x: Tensor, y: Tensor) -> float:
    output = model(x)
    predicted = output.argmax(-1) if output.shape[-1] > 1 else (output[:, 0] > 0).long()
    truth = y.reshape(-1).long()
    return torch.stack([(predicted[truth == k] == k).float().mean() for k in truth.unique()]).mean().item()


def _imbalanced(examples: Data, seed: int) -> Data:
    """Keep one of twelve examples of all classes but the first."""
    y = examples.y.reshape(len(examples.y)).long()
    kept = (y == 0) | (torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.02)
    return replace(examples, x=examples.x[kept], y=examples.y[kept])


@fault("class_imbalance", on=("table",))
def class_imbalance(architecture: Architecture) -> Pair:
    """Nearly all examples are of one class, and the user wants the others found."""
    base = replace(architecture, change_data=_imbalanced, score=_balanced, goal=0.85, lr=3e-4, steps=120, batch_size=32)
    weight = torch.tensor([40.0])
    return Pair(base.run, replace(base, loss_fn=nn.BCEWithLogitsLoss(pos_weight=weight)).run)


@fault("batches_sorted", on=("mlp", "rnn", "cnn"))
def batches_sorted(architecture: Architecture) -> Pair:
    """Batches come class by class."""
    base = architecture.with_momentum(2.0 if architecture.name == "rnn" else 1.0)
    return Pair(replace(base, sorted_by_target=True).run, base.run)


@fault("augmentation_too_strong", on=("mlp", "cnn", "rnn"))
def augmentation_too_strong(architecture: Architecture) -> Pair:
    """Noise and rolls that destroy what tells classes apart."""

    def destroyed(x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        images = x.view(-1, 8, 8)
        rolled = [
            image.roll(torch.randint(8, (2,), generator=generator).tolist(), (0, 1)).rot90(
                int(torch.randint(4, (), generator=generator)), (0, 1)
            )
            for image in images
        ]
        x = torch.stack(rolled).view(x.shape)
        return x + 2.5 * torch.randn(x.shape, generator=generator), y

    return Pair(replace(architecture, transform=destroyed).run, architecture.run)


@fault("batchnorm_eval_gap", on=("mlp", "cnn"))
def batchnorm_eval_gap(architecture: Architecture) -> Pair:
    """The running statistics never arrive at those of the data, which are far from 0 and 1."""
    base = replace(
        architecture.shaped(norm=nn.BatchNorm1d),
        transform=lambda x, y, generator: (20 * x + 30, y),
        score=lambda model, x, y: architecture.score(model, 20 * x + 30, y),
        goal=0.8,
    )

    def slow(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1e-4

    return Pair(replace(base, prepare=slow).run, base.run, "norms.0")


@fault("batchnorm_tiny_batch", on=("mlp",))
def batchnorm_tiny_batch(architecture: Architecture) -> Pair:
    """Batches of two, whose statistics are noise."""
    base = architecture.shaped(norm=nn.BatchNorm1d, depth=4)
    base = replace(base, goal=0.55)
    return Pair(replace(base, batch_size=2).run, replace(base.shaped(norm=None), batch_size=2).run, "norms.0")
