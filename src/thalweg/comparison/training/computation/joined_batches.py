"""Joined batches: the batches of a loader as one batch, and parts of a batch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.tasks import Batch, Task
from thalweg.tasks.data import examples_in
from thalweg.tasks.supervised import OutputBatch, Supervised
from thalweg.tasks.user_code import line_of, task_error


class JoinError(Exception):
    """Batches cannot be joined, or a batch cannot be divided; the text says what stands in the way."""


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Return the examples of several batches as one batch.

    Tensors with a row for each example are concatenated, lists too, in tuples and dicts of any depth. A part that is
    the same in all batches stays as it is.

    Args:
        batches: Batches of one loader, at least one. A single one may be anything.

    Raises:
        JoinError: If their shapes differ, or they are objects that only the user can join.
    """
    return batches[0] if len(batches) == 1 else _join(batches, [examples_in(batch) for batch in batches])


def _join(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    first = parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        return _join_tensors(parts, sizes)
    if all(isinstance(part, Mapping) and part.keys() == first.keys() for part in parts):
        return {key: _join([part[key] for part in parts], sizes) for key in first}
    if all(isinstance(part, tuple | list) for part in parts):
        if not _holds_parts(first) and [len(part) for part in parts] == list(sizes):  # names of the examples, say
            return [item for part in parts for item in part]
        if all(len(part) == len(first) for part in parts):
            return tuple(_join(column, sizes) for column in zip(*parts, strict=True))
    elif isinstance(first, str | bytes | int | float | None) and all(part == first for part in parts):
        return first
    raise JoinError(f"batches with a {type(first).__name__}")


def _join_tensors(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    first = tensors[0]
    rows = [len(tensor) if tensor.dim() else None for tensor in tensors]
    if rows == list(sizes) and all(tensor.shape[1:] == first.shape[1:] for tensor in tensors):
        return torch.cat(list(tensors))
    if all(tensor.shape == first.shape and torch.equal(tensor, first) for tensor in tensors):
        return first
    another = next((tensor for tensor in tensors if tensor.shape[1:] != first.shape[1:]), tensors[-1])
    raise JoinError(f"tensors of the shapes {tuple(first.shape)} and {tuple(another.shape)}")


def _holds_parts(part: Sequence[Any]) -> bool:
    return any(isinstance(item, Tensor | Mapping | tuple | list) for item in part)


def divide_batch(batch: Batch, size: int) -> list[Batch]:
    """Return parts of a batch with at most ``size`` examples each.

    Args:
        batch: A batch of tensors.
        size: Most examples in a part.

    Raises:
        JoinError: If a part of it has no row for each example: nobody but the user can divide it.
    """
    count = examples_in(batch)
    return [_rows(batch, slice(start, start + size), count) for start in range(0, count, size)]


def _rows(part: Any, rows: slice, count: int) -> Any:
    if isinstance(part, str | bytes | int | float | None) or (isinstance(part, Tensor) and not part.dim()):
        return part
    if isinstance(part, Tensor):
        if len(part) == count and part.layout == torch.strided:
            return part[rows]
    elif isinstance(part, Mapping):
        return {key: _rows(value, rows, count) for key, value in part.items()}
    elif isinstance(part, tuple | list):
        if _holds_parts(part):
            return tuple(_rows(item, rows, count) for item in part)
        if len(part) == count:
            return part[rows]
    raise JoinError(f"a batch with a {type(part).__name__}")


def first_examples(loader: Any, count: int) -> Batch:
    """Return the first batches of a loader as one batch of about ``count`` examples; one batch if they do not fit.

    Args:
        loader: An iterable of batches.
        count: Examples that are enough.
    """
    batches: list[Batch] = []
    num_examples = 0
    for batch in loader:
        batches.append(batch)
        num_examples += examples_in(batch)
        if num_examples >= count:
            break
    try:
        return join_batches(batches)
    except JoinError:
        return batches[0]


def whole_split(task: Task, split: str, metric: str, model: nn.Module) -> Batch:
    """Return all batches of a loader as one batch, on which a metric is measured that is no mean.

    For a ``supervised`` metric the model's outputs and the targets are joined, which take less memory than inputs.

    Args:
        task: The task.
        split: ``"validation"`` or ``"test"``, whose data are a loader.
        metric: Name of the further metric that is measured; empty for the metric.
        model: The model that is measured, in evaluation mode.

    Raises:
        TaskError: If the batches cannot be joined. The message names the metric's line and the cure.
    """
    loader: Any = task.split(split)
    measure: Any = task.measure(split, metric)
    batches: Iterator[Batch] = iter(loader)
    try:
        if isinstance(measure, Supervised):
            with task.autocast(next(model.parameters()).device):
                outputs = [measure.output_and_target(model, batch) for batch in batches]
            joined: tuple[Any, ...] = join_batches(outputs)
            return OutputBatch(*joined)
        return join_batches(list(batches))
    except JoinError as error:
        name = metric or task.measured_as(split).split(maxsplit=1)[-1]
        raise task_error(
            task.name,
            f"the batches of the {split} loader must fit together: {name} is no mean over the examples, so it is "
            "measured on all of them at once",
            str(error),
            "Give this loader one batch (batch_size=len(dataset)), or take thalweg.supervised(...) as the metric, for "
            "which outputs and targets alone are joined.",
            where=line_of(measure) or task.made_at,
        ) from None
