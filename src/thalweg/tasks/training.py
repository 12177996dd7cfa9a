"""Training: a training in its parts, not begun, as a diagnosis needs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Step = Callable[..., Any]
Metric = Callable[[nn.Module], Any]


@dataclass
class Training:
    """A training that has not begun.

    Attributes:
        model: The model.
        optimizer: Its optimizer, or an object with ``step``, ``zero_grad`` and ``param_groups``.
        batches: Batches ``(inputs..., target)``: an iterable, which is begun again at its end, or an iterator.
        loss_fn: The loss of the model's output and the target, a scalar.
        step: The user's own step, ``step(training, *batch) -> loss``; None for the plain one: zero the gradients, go
            forward, compute the loss, go backward, step.
        metric: What the user wants, of the model on held-out data; higher is better. None if only the loss counts.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from thalweg.tasks import Training
        >>> model = nn.Linear(2, 1)
        >>> batches = [(torch.randn(8, 2), torch.randn(8, 1))]
        >>> training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, nn.functional.mse_loss)
    """

    model: nn.Module
    optimizer: Optimizer
    batches: Iterable[Any]
    loss_fn: Callable[[Any, Any], Tensor]
    step: Step | None = None
    metric: Metric | None = None
