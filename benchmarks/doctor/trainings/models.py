"""Models: networks of which a shape leaves the activation, the norms and the sizes open."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.doctor.trainings import data

Activation = Callable[[], nn.Module]


@dataclass(frozen=True)
class Shape:
    """The choices that a model leaves open.

    Attributes:
        activation: Makes an activation.
        norm: Makes a normalization of so many features; None for none.
        width: Features of a hidden layer.
        depth: Hidden layers.
        last: Makes a module after the last layer; None for none.
        outputs: Outputs; None for those of the architecture.
    """

    activation: Activation = nn.ReLU
    norm: Callable[[int], nn.Module] | None = None
    width: int = 64
    depth: int = 3
    last: Activation | None = None
    outputs: int | None = None

    def normalized(self, features: int) -> nn.Module:
        """Return the normalization of so many features."""
        return nn.Identity() if self.norm is None else self.norm(features)

    def finish(self) -> nn.Module:
        """Return the module after the last layer."""
        return nn.Identity() if self.last is None else self.last()


class Perceptron(nn.Module):
    """Hidden layers ``hidden.0``, ``hidden.1``, ... and a ``head``."""

    def __init__(self, inputs: int, outputs: int, shape: Shape, *, residual: bool = False) -> None:
        super().__init__()
        widths = [inputs] + [shape.width] * shape.depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(shape.normalized(shape.width) for _ in range(shape.depth))
        self.activations = nn.ModuleList(shape.activation() for _ in range(shape.depth))
        self.head = nn.Linear(shape.width, shape.outputs or outputs)
        self.last = shape.finish()
        self.residual = residual

    def features(self, x: Tensor) -> Tensor:
        for number, (layer, norm, activation) in enumerate(zip(self.hidden, self.norms, self.activations, strict=True)):
            change = activation(norm(layer(x)))
            x = x + change if self.residual and number else change
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))


class Convolutions(nn.Module):
    """``hidden.0`` and ``hidden.1`` are convolutions of images of 8 by 8, ``head`` is linear."""

    def __init__(self, outputs: int, shape: Shape) -> None:
        super().__init__()
        channels = [1] + [max(8, shape.width // 4)] * shape.depth
        self.hidden = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(_norm_of_images(shape, channel) for channel in channels[1:])
        self.activations = nn.ModuleList(shape.activation() for _ in range(shape.depth))
        self.head = nn.Linear(channels[-1] * 16, shape.outputs or outputs)
        self.last = shape.finish()

    def features(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 1, 8, 8)
        for layer, norm, activation in zip(self.hidden, self.norms, self.activations, strict=True):
            x = activation(norm(layer(x)))
        return functional.max_pool2d(x, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))


def _norm_of_images(shape: Shape, channels: int) -> nn.Module:
    if shape.norm is None:
        return nn.Identity()
    return nn.BatchNorm2d(channels) if shape.norm is nn.BatchNorm1d else nn.GroupNorm(1, channels)


class Recurrent(nn.Module):
    """A recurrent layer ``hidden.0`` over the rows of an image, and a ``head``."""

    def __init__(self, outputs: int, shape: Shape) -> None:
        super().__init__()
        cell = nn.GRU if shape.activation is nn.ReLU else nn.RNN
        self.hidden = nn.ModuleList([cell(8, shape.width, batch_first=True)])
        self.norms = nn.ModuleList([shape.normalized(shape.width)])
        self.head = nn.Linear(shape.width, shape.outputs or outputs)
        self.last = shape.finish()

    def features(self, x: Tensor) -> Tensor:
        states, _ = self.hidden[0](x.reshape(-1, 8, 8))
        return self.norms[0](states[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))


class Block(nn.Module):
    """Causal attention and a perceptron, each after a LayerNorm and beside a residual connection."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.activation, self.down = nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attention(self.before_attention(x)).chunk(3, -1)
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        return x + self.down(self.activation(self.up(self.before_perceptron(x))))


class Attentive(nn.Module):
    """The rows of an image as tokens: ``embedding``, ``hidden.0``, ... (encoder layers) and ``head``."""

    def __init__(self, outputs: int, shape: Shape) -> None:
        super().__init__()
        width = shape.width // 2
        self.embedding = nn.Linear(8, width)
        self.place = nn.Parameter(0.3 * torch.randn(8, width))
        self.hidden = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 2, 2 * width, dropout=0.0, activation=shape.activation(), batch_first=True, norm_first=True
            )
            for _ in range(max(1, shape.depth - 1))
        )
        self.head = nn.Linear(width, shape.outputs or outputs)
        self.last = shape.finish()

    def features(self, x: Tensor) -> Tensor:
        x = self.embedding(x.reshape(-1, 8, 8)) + self.place
        for layer in self.hidden:
            x = layer(x)
        return x[:, -1]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))


class Transformer(nn.Module):
    """``embedding``, ``hidden.0``, ... (blocks) and ``head``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width // 2
        self.embedding = nn.Embedding(data.VOCABULARY, width)
        self.place = nn.Parameter(0.3 * torch.randn(data.LENGTH, width))
        self.hidden = nn.ModuleList(Block(width, shape.activation) for _ in range(max(1, shape.depth - 1)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape.outputs or data.VOCABULARY)
        self.last = shape.finish()

    def features(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.place
        for block in self.hidden:
            x = block(x)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))


class Autoencoder(nn.Module):
    """Two layers to a code (``hidden.0``, ``hidden.1``) and two back (``hidden.2`` and ``head``)."""

    CODE = 16

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = [64, shape.width, self.CODE, shape.width]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(shape.normalized(width) for width in widths[1:])
        self.activations = nn.ModuleList([shape.activation(), nn.Identity(), shape.activation()])
        self.head = nn.Linear(shape.width, 64)
        self.last = shape.finish()

    def features(self, x: Tensor) -> Tensor:
        for layer, norm, activation in zip(self.hidden, self.norms, self.activations, strict=True):
            x = activation(norm(layer(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x)))
