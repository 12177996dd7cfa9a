"""A loss of (output, target) as a loss of (model, batch), for the batches, models and targets that people have."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.errors import TaskError
from thalweg.tasks.data import Batch, Tensors
from thalweg.tasks.user_code import calling_line, line_of, task_error

Measure = Callable[[nn.Module, Batch], Tensor]

# torch's losses of class labels, and of numbers of the output's own shape. A loss of the user's is called as it is.
_CLASS_LOSSES = frozenset(
    ["cross_entropy", "nll_loss", "multi_margin_loss", "CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"]
)
_ELEMENTWISE_LOSSES = frozenset(
    [
        *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
        *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss"),
    ]
)


class OutputBatch(NamedTuple):
    """The outputs of a model with their targets, in the place of a batch."""

    output: Tensor
    target: Any


class Supervised:
    """A loss of (model, batch): all tensors of a batch but the last are inputs of the model, the last is the target.

    If the model returns no tensor, its ``logits`` are taken, or the only tensor that it returns. For torch's losses the
    target gets the dtype that the loss needs, where this loses nothing.

    Attributes:
        loss: The loss of (output, target).
        made_at: File and line of the user's code that made it.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss
        self.made_at = line_of(loss) or calling_line()
        name = getattr(loss, "__name__", type(loss).__name__)
        is_torchs = getattr(loss, "__module__", "").startswith("torch.nn") or type(loss).__module__.startswith(
            "torch.nn"
        )
        self._name = name
        self._takes_classes = is_torchs and name in _CLASS_LOSSES
        self._takes_probabilities = self._takes_classes and name in ("cross_entropy", "CrossEntropyLoss")
        self._is_elementwise = is_torchs and name in _ELEMENTWISE_LOSSES

    def __repr__(self) -> str:
        return f"supervised({self._name})"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch, or of outputs that the model has returned before."""
        if isinstance(batch, OutputBatch):
            return self.loss(batch.output, batch.target)
        return self.loss(*self.output_and_target(model, batch))

    def output_and_target(self, model: nn.Module, batch: Batch) -> "OutputBatch":
        """Return what the loss takes: the output of the model as a tensor, and the target in the dtype that fits.

        Args:
            model: The model.
            batch: Inputs of the model, and a target at the end.
        """
        *inputs, target = self._parts(batch)
        output = self._tensor_of(model(*inputs))
        return OutputBatch(output, self.fitting(target, output))

    def of_output(self, output: Any, target: Any) -> Tensor:
        """Return the loss of what a model returned, and of the target.

        Args:
            output: A tensor, an object with ``logits``, or what holds a single tensor.
            target: The target of the batch.
        """
        tensor = self._tensor_of(output)
        return self.loss(tensor, self.fitting(target, tensor))

    def prepare(self, tensors: Tensors) -> Tensors:
        """Return tensors whose last one, if it has class labels as real numbers, has them as int64.

        Args:
            tensors: The inputs and the target of a split.

        Raises:
            TaskError: If the loss takes class labels and a label is no whole number.
        """
        *inputs, target = tensors
        if not (self._takes_classes and target.dim() == 1 and target.is_floating_point()):
            return tensors
        if not bool((target == target.round()).all()):
            raise self._error(
                "class labels must be whole numbers",
                f"{target[target != target.round()][0]:g} in a target of {target.dtype}",
                "Use a loss of real numbers, such as mse_loss, or pass labels of dtype int64.",
            )
        return (*inputs, target.long())

    def _parts(self, batch: Batch) -> tuple[Any, ...]:
        if isinstance(batch, Mapping):
            keys = list(batch)
            first, last = (f"batch[{key!r}]" for key in (keys[0], keys[-1]))
            raise self._error(
                "a batch must be a tuple (inputs, target)",
                f"a dict with the keys {', '.join(map(repr, keys))}",
                f"Write the loss as a function: lambda model, batch: {self._name}(model({first}), {last}), say.",
            )
        if not batch:
            raise self._error("a batch must hold inputs and a target", "a task without data", "Pass data to the task.")
        if len(batch) < 2:
            raise self._error(
                "a batch must hold inputs and a target",
                "1 tensor",
                f"Write the loss as a function: lambda model, batch: {self._name}(model(batch[0]), batch[0]), say.",
            )
        return tuple(batch)

    def _tensor_of(self, output: Any) -> Tensor:
        """Return the tensor that a model returns, its logits, or the only tensor in what it returns."""
        if isinstance(output, Tensor):
            return output
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor):
            return logits
        parts = (
            output
            if isinstance(output, Mapping)
            else dict(enumerate(output if isinstance(output, tuple | list) else ()))
        )
        if isinstance(parts.get("logits"), Tensor):
            tensor: Tensor = parts["logits"]
            return tensor
        tensors = {key: part for key, part in parts.items() if isinstance(part, Tensor)}
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        got = type(output).__name__ + (f" with {len(tensors)} tensors" if tensors else "")
        key = repr(next(iter(tensors), 0))
        raise self._error(
            "the model must return a tensor, or an object with logits",
            got,
            f"Take the tensor yourself: lambda model, batch: {self._name}(model(batch[0])[{key}], batch[1]).",
        )

    def fitting(self, target: Any, output: Tensor) -> Any:
        """Return the target in the dtype that the loss needs. Only dtypes and shapes are read, so vmap can follow.

        Args:
            target: The target of a batch.
            output: The output of the model.
        """
        if not isinstance(target, Tensor):
            return target
        if self._takes_classes:
            return self._classes(target, output)
        if not self._is_elementwise:
            return target
        if target.shape != output.shape:
            change = "target.unsqueeze(1)" if target.dim() < output.dim() else "a model whose output is .squeeze(1)"
            raise self._error(
                f"the output of the model and the target must have one shape for {self._name}",
                f"{tuple(output.shape)} and {tuple(target.shape)}",
                f"Otherwise each output would be compared with each target. Pass {change}, say.",
            )
        return target.to(output.dtype)

    def _classes(self, target: Tensor, output: Tensor) -> Tensor:
        if target.shape == output.shape and (target.is_floating_point() or self._takes_probabilities):
            return target.to(output.dtype)  # a probability for each class; whole numbers are 0 and 1
        if target.dim() == output.dim() and target.dim() > 1 and target.shape[1] == 1:
            raise self._error(
                f"class labels must have one dimension less than the output for {self._name}",
                f"shapes {tuple(target.shape)} and {tuple(output.shape)}",
                "Pass labels.squeeze(1).",
            )
        if target.is_floating_point():
            raise self._error(
                f"class labels must be whole numbers for {self._name}",
                f"a target of {target.dtype}",
                "Pass labels.long().",
            )
        return target.long()

    def _error(self, condition: str, got: str, remedy: str) -> TaskError:
        return task_error("supervised", condition, got, remedy, where=self.made_at)


def supervised(loss: Callable[[Tensor, Tensor], Tensor]) -> Supervised:
    """Turn a loss of (output, target) into a loss of (model, batch), as a Task needs it.

    The last tensor of a batch is the target; the others are the inputs of the model. If the model returns an object
    with ``logits`` or a tuple with a single tensor, these are its output. With a loss of ``torch.nn``, class labels
    that are whole numbers become int64, and other targets get the dtype of the output.

    Args:
        loss: Takes the model's output and the target, and returns the mean loss, a 0-d tensor. A function such as
            ``torch.nn.functional.cross_entropy`` or a module such as ``torch.nn.CrossEntropyLoss()``.

    Returns:
        A function of the model and a batch. It raises TaskError if shapes or dtypes of output and target do not fit.

    Example:
        >>> import torch
        >>> from thalweg.tasks import supervised
        >>> loss = supervised(torch.nn.functional.mse_loss)
        >>> loss(torch.nn.Identity(), (torch.ones(4), torch.zeros(4)))
        tensor(1.)
    """
    return Supervised(loss)


def prepared(loss: object, tensors: Tensors) -> Tensors:
    """Return the tensors of a split as a loss needs them: of ``supervised`` losses labels become whole numbers."""
    if not isinstance(loss, Supervised):
        return tensors
    with torch.no_grad():
        return loss.prepare(tensors)
