"""Line-search steps: the iterations of an optimizer that calls its closure several times, counted in evaluations."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from thalweg.optim import RuleOptimizer
from thalweg.tasks import Batch

Compute = Callable[[Sequence[Batch]], Tensor]


class LineSearchSteps:
    """Takes one iteration at a time, and counts the evaluations of loss and gradient beyond the first as steps ahead.

    On a full batch the evaluation that ended an iteration begins the next one, as within one call of ``step``.

    Args:
        optimizer: An optimizer whose steps, or whose last steps, call a closure several times.
        full_batch: All training data for these steps, if the other steps see batches; None if all see the same.
        batches_per_pass: Number of steps that see the training data once; with ``full_batch`` the cost of an
            evaluation.
    """

    def __init__(
        self, optimizer: RuleOptimizer, full_batch: Sequence[Batch] | None = None, batches_per_pass: int = 1
    ) -> None:
        self._optimizer = optimizer
        self._full_batch = full_batch
        self._cost = 1 if full_batch is None else batches_per_pass
        self._ahead = 0
        self._last: _Evaluated | None = None
        for group in optimizer.param_groups:
            for key in [key for key in group if key == "max_iter" or key.endswith("_max_iter")]:
                max_eval = key.removesuffix("max_iter") + "max_eval"
                group[max_eval] = group[max_eval] or group[key] * 5 // 4  # of a line search, as of a step
                group[key] = 1

    def is_ahead(self) -> bool:
        """Return True if the next step has been done already; count it."""
        self._ahead -= 1
        if self._ahead >= 0:
            return True
        self._ahead = 0
        return False

    def is_next(self) -> bool:
        """Return True if the next step calls its closure several times."""
        return self._optimizer.next_step_needs == "closure"

    def take(self, stream: Iterator[Sequence[Batch]], compute: Compute) -> None:
        """Take an iteration.

        Args:
            stream: The batches of all steps.
            compute: Computes the gradients of batches, and returns the loss.
        """
        batches = self._full_batch or next(stream)
        num_evaluations = 0

        def closure() -> float:
            nonlocal num_evaluations
            if self._last is None or not self._last.is_at(batches, self._params()):
                num_evaluations += 1
                loss = float(compute(batches))
                self._last = _Evaluated(batches, loss, self._params())
            return self._last.restore(self._params())

        self._optimizer.step(closure)
        self._ahead = max(1, num_evaluations) * self._cost - 1

    def _params(self) -> list[Tensor]:
        return [param for group in self._optimizer.param_groups for param in group["params"]]


class _Evaluated:
    """The loss and the gradients of batches at some values of the parameters."""

    def __init__(self, batches: Sequence[Batch], loss: float, params: Sequence[Tensor]) -> None:
        self._batches, self._loss = batches, loss
        self._grads = [param.grad for param in params]
        self._versions = [param._version for param in params]

    def is_at(self, batches: Sequence[Batch], params: Sequence[Tensor]) -> bool:
        """Return True if the batches are the same, and nothing has written to the parameters since."""
        return self._has_same(batches) and self._versions == [param._version for param in params]

    def _has_same(self, batches: Sequence[Batch]) -> bool:
        pairs = zip(self._batches, batches, strict=False)
        return len(batches) == len(self._batches) and all(_is_same_batch(first, second) for first, second in pairs)

    def restore(self, params: Sequence[Tensor]) -> float:
        """Give the parameters their gradients again, and return the loss."""
        for param, grad in zip(params, self._grads, strict=True):
            param.grad = grad
        return self._loss


def _is_same_batch(first: Batch, second: Batch) -> bool:
    """Return True if two batches are the same memory."""
    if len(first) != len(second) or isinstance(first, dict) or isinstance(second, dict):
        return False
    return all(
        isinstance(left, torch.Tensor)
        and isinstance(right, torch.Tensor)
        and left.data_ptr() == right.data_ptr()
        and left.shape == right.shape
        for left, right in zip(first, second, strict=True)
    )
