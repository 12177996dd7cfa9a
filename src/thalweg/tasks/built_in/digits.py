"""Handwritten digits: scikit-learn's 1,797 images of 8 x 8 pixels, with four networks."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from thalweg.tasks.data import Batch
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task


def _images() -> Batch:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _batchnorm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _deep_mlp() -> nn.Module:
    # PyTorch's initial weights shrink the activations from layer to layer, so training starts on a plateau.
    widths = [64, *[32] * 12]
    hidden = [layer for fan_in, width in pairwise(widths) for layer in (nn.Linear(fan_in, width), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(32, 10))


def digits() -> Task:
    """Classify handwritten digits of 8 x 8 pixels: a perceptron with a hidden layer of 64 units."""
    return Task(
        name="digits",
        about="1,797 images of 8 x 8 pixels, a perceptron with 64 hidden units",
        model=_mlp,
        loss=supervised(functional.cross_entropy),
        data=_images,
        metric_name="cross-entropy",
        batch_size=32,
        passes=20,
    )


def digits_cnn() -> Task:
    """Classify handwritten digits of 8 x 8 pixels: two convolutions and a linear layer."""
    return Task(
        name="digits-cnn",
        about="1,797 images of 8 x 8 pixels, two convolutions and a linear layer",
        model=_cnn,
        loss=supervised(functional.cross_entropy),
        data=_images,
        metric_name="cross-entropy",
        batch_size=32,
        passes=10,
    )


def digits_batchnorm() -> Task:
    """Classify handwritten digits of 8 x 8 pixels: two convolutions with batch normalization and a linear layer."""
    return Task(
        name="digits-batchnorm",
        about="1,797 images of 8 x 8 pixels, two convolutions with batch normalization and a linear layer",
        model=_batchnorm_cnn,
        loss=supervised(functional.cross_entropy),
        data=_images,
        metric_name="cross-entropy",
        batch_size=32,
        passes=10,
    )


def digits_deep() -> Task:
    """Classify handwritten digits of 8 x 8 pixels: 12 hidden layers of 32 tanh units, hard to train."""
    return Task(
        name="digits-deep",
        about="1,797 images of 8 x 8 pixels, a perceptron with 12 hidden layers of 32 tanh units",
        model=_deep_mlp,
        loss=supervised(functional.cross_entropy),
        data=_images,
        metric_name="cross-entropy",
        batch_size=32,
        passes=30,
    )
