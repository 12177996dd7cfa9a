"""Data: small sets that come with packages or are made, each split into training and held-out examples."""

from dataclasses import dataclass

import torch
from sklearn import datasets
from torch import Tensor

HELD_OUT = 0.25
VOCABULARY, LENGTH = 16, 12


@dataclass(frozen=True)
class Data:
    """Training and held-out examples.

    Attributes:
        x: Inputs, of shape ``(examples, ...)``.
        y: Targets.
        held_out_x: Inputs that no training uses.
        held_out_y: Their targets.
    """

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


def split(x: Tensor, y: Tensor, seed: int) -> Data:
    """Split examples at random."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))
    train, held_out = order[int(len(x) * HELD_OUT) :], order[: int(len(x) * HELD_OUT)]
    return Data(x[train], y[train], x[held_out], y[held_out])


def digits(seed: int) -> Data:
    """Images of digits, of shape ``(64,)``, standardized; ten classes."""
    raw = datasets.load_digits()
    x = torch.tensor(raw.data, dtype=torch.float32)
    return split((x - x.mean(0)) / (x.std(0) + 1), torch.tensor(raw.target), seed)


def pictures(seed: int) -> Data:
    """Images of digits, of shape ``(64,)``, centred, as inputs and as targets."""
    x = torch.tensor(datasets.load_digits().data, dtype=torch.float32) / 16
    x = x - x.mean(0)
    return split(x, x, seed)


def tumours(seed: int) -> Data:
    """Thirty measurements of tumours, standardized; targets of shape ``(1,)``, 0 or 1."""
    raw = datasets.load_breast_cancer()
    x = torch.tensor(raw.data, dtype=torch.float32)
    return split((x - x.mean(0)) / x.std(0), torch.tensor(raw.target, dtype=torch.float32)[:, None], seed)


def smooth(seed: int) -> Data:
    """A smooth function of eight variables with noise; targets of shape ``(1,)`` with mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1200, 8, generator=generator)
    inner = torch.randn(8, 16, generator=generator) / 8**0.5
    outer = torch.randn(16, 1, generator=generator)
    y = torch.tanh(2 * x @ inner) @ outer
    y = (y - y.mean()) / y.std() + 0.05 * torch.randn(1200, 1, generator=generator)
    return split(x, y, seed)


def waves(seed: int) -> Data:
    """A wavy function of four variables between -1 and 1; targets of shape ``(1,)`` with mean 0 and deviation 1."""
    x = 2 * torch.rand(1200, 4, generator=torch.Generator().manual_seed(seed)) - 1
    y = (4 * x[:, 0] + x[:, 1]).sin() + x[:, 1] * x[:, 2] + x[:, 3].abs()
    return split(x, ((y - y.mean()) / y.std())[:, None], seed)


def tokens(seed: int) -> Data:
    """Sequences of tokens; the target at each place is the token before it, at the first place the token itself."""
    x = torch.randint(VOCABULARY, (1200, LENGTH), generator=torch.Generator().manual_seed(seed))
    return split(x, torch.cat([x[:, :1], x[:, :-1]], 1), seed)
