"""Step gradients: the gradients of one optimizer step, from one batch or from several, in full or mixed precision."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from thalweg.comparison.training.computation.batches import batches
from thalweg.optim import RuleOptimizer
from thalweg.tasks import Batch, Task
from thalweg.tasks.data import examples_in
from thalweg.tasks.user_code import line_of, task_error


class StepGradients:
    """Computes gradients of batches, as the owner of a model would.

    Args:
        task: The task.
        model: The model.
        optimizer: The optimizer whose step uses the gradients.
        curvature_interval: Steps from one estimate of the curvature to the next; 0 if the optimizer needs none.
    """

    def __init__(
        self, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, curvature_interval: int = 0
    ) -> None:
        self._task, self._model, self._optimizer = task, model, optimizer
        self._curvature_interval = curvature_interval
        self._device = next(model.parameters()).device
        self._scaler = torch.amp.GradScaler(self._device.type) if task.precision == "float16" else None

    def compute(self, micro_batches: Sequence[Batch], step: int) -> Tensor:
        """Compute the gradients of the mean loss over batches, and the curvature where that is due.

        Args:
            micro_batches: The batches of one step.
            step: The number of steps before this one.

        Returns:
            The loss.
        """
        self._optimizer.zero_grad()
        sizes = [examples_in(batch) for batch in micro_batches] if len(micro_batches) > 1 else [1]
        losses = []
        for number, (batch, size) in enumerate(zip(micro_batches, sizes, strict=True)):
            with self._task.autocast(self._device):
                loss = checked_loss(self._task, self._task.loss(self._model, batch))
            if number == 0 and self._curvature_interval and step % self._curvature_interval == 0:
                assert isinstance(self._optimizer, RuleOptimizer)
                self._optimizer.estimate_curvature(loss)
            share = loss if len(sizes) == 1 else loss * (size / sum(sizes))
            scaled: Tensor = share if self._scaler is None else self._scaler.scale(share)
            scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(share.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def take_step(self) -> None:
        """Let the optimizer take a step with the gradients."""
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()


def micro_batches(task: Task, seed: int, *, full_batch: bool) -> Iterator[list[Batch]]:
    """Yield the batches of each optimizer step, without end; the same for the same seed.

    Args:
        task: The task.
        seed: Seed of the order of examples.
        full_batch: True for one batch of all training data in every step.
    """
    stream = batches(task, seed, full_batch=full_batch)
    per_pass = 1 if full_batch or task.splits.train is None else task.num_batches
    while True:
        for start in range(0, per_pass, task.accumulate):
            yield [next(stream) for _ in range(min(task.accumulate, per_pass - start))]


def checked_loss(task: Task, loss: object, metric: object = None) -> Tensor:
    """Return the loss, or the value of a metric; raise TaskError unless it is a 0-d tensor.

    Args:
        task: The task, for messages.
        loss: The value.
        metric: The function that returned it, unless that is the loss.
    """
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    remedy = "Return the loss itself, no copy as a number."
    if isinstance(loss, Tensor):
        remedy = "Take the mean over the batch."
    elif metric is not None:
        remedy = "Return the mean over the batch."
    condition = "the loss must be a 0-d tensor" if metric is None else "a metric must be a number or a 0-d tensor"
    where = (line_of(metric) if metric is not None else "") or task.line_of("loss")
    raise task_error(task.name, condition, got, remedy, where=where)
