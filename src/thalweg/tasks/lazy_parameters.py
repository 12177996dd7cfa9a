"""Parameters that get their shape from the first batch, as of ``nn.LazyLinear``."""

import itertools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy as is_uninitialized

from thalweg.tasks.data import Batch


def is_lazy(model: nn.Module) -> bool:
    """Return True if a parameter or buffer of the model has no shape yet."""
    return any(map(is_uninitialized, itertools.chain(model.parameters(), model.buffers())))


def initialize(model: nn.Module, loss: Callable[[nn.Module, Batch], Any], batch: Batch) -> None:
    """Give all parameters their shapes by computing the loss of a batch. Running statistics stay as they are.

    Args:
        model: The model, changed in place. It is in training mode afterwards, as a new model is.
        loss: The loss of (model, batch).
        batch: A training batch.
    """
    model.eval()
    loss(model, batch)
    model.train()
