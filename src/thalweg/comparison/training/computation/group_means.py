"""Means of a measure over groups of examples, from which follow the mean over a split and its standard error."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.comparison.training.computation.joined_batches import whole_split
from thalweg.comparison.training.computation.whole_measures import is_mean
from thalweg.engine.core import devices
from thalweg.tasks import Batch, Task
from thalweg.tasks.data import examples_in

NUM_TEST_GROUPS = 24  # of test examples, whose means tell the standard error over examples


@dataclass(frozen=True)
class GroupMeans:
    """Means of a measure over groups of examples.

    Attributes:
        sizes: Number of examples in each group, of shape ``(groups,)``.
        means: Mean of each group, of shape ``(groups,)``, or ``(groups, members)`` of a population.
    """

    sizes: Tensor
    means: Tensor

    def mean(self) -> Tensor:
        """Return the mean over all examples, of shape ``()`` or ``(members,)``."""
        return (self._weights() * self.means).sum(0)

    def error(self) -> Tensor:
        """Return the standard error of the mean, from the spread of the groups; not a number for a single group."""
        if len(self.sizes) < 2:
            return torch.full_like(self.mean(), torch.nan)
        squares = (self._weights() * (self.means - self.mean()).square()).sum(0)
        return (squares / (len(self.sizes) - 1)).sqrt()

    def _weights(self) -> Tensor:
        shape = (-1, *[1] * (self.means.dim() - 1))
        return (self.sizes / self.sizes.sum()).to(self.means).reshape(shape)


def measure_in_groups(
    task: Task,
    split: str,
    measure: Callable[[Batch], Tensor],
    group_size: int,
    metric: str = "",
    model: nn.Module | None = None,
) -> GroupMeans:
    """Measure a split group by group, or as one group if the measure is no mean over the examples.

    An accelerator measures all examples in one batch, or in halves, quarters, ... if its memory is too small.

    Args:
        task: The task.
        split: ``train``, ``validation`` or ``test``. The test has at least ``NUM_TEST_GROUPS`` groups, if it has as
            many examples.
        measure: Returns the mean over a batch.
        group_size: Most examples in a group on the CPU; a DataLoader makes groups of its own.
        metric: Name of the further metric that is measured.
        model: The model that is measured, needed for data that are read through a loader.

    Raises:
        TaskError: If a measure is no mean, and the batches of a loader cannot be joined.
    """
    data, device = task.split(split), task.placed_on or devices.CPU
    if data is None:
        return GroupMeans(torch.ones(1), measure(()).unsqueeze(0))
    is_whole = not is_mean(task, split, metric)
    if not isinstance(data, tuple):
        if not is_whole:
            return _measure(data, measure)
        assert model is not None, "the models of a population have data in memory"
        return _measure([whole_split(task, split, metric, model)], measure)
    if is_whole:
        return _measure([data], measure)
    count = len(data[0])
    size = group_size if device.type == "cpu" else count
    if split == "test":
        size = max(1, min(size, count // NUM_TEST_GROUPS))
    while True:
        try:
            return _measure(zip(*(tensor.split(size) for tensor in data), strict=True), measure)
        except Exception as error:
            if device.type == "cpu" or size == 1 or not devices.is_out_of_memory(error):
                raise
        devices.release_memory(device)
        size = math.ceil(size / 2)


def _measure(groups: Iterable[Batch], measure: Callable[[Batch], Tensor]) -> GroupMeans:
    weighted = [(examples_in(group), measure(group)) for group in groups]
    return GroupMeans(torch.tensor([size for size, _ in weighted]), torch.stack([mean for _, mean in weighted]))


def groups_of_sizes(task: Task, split: str, sizes: Tensor) -> list[Batch]:
    """Return the groups that ``measure_in_groups`` made of data in memory, given their sizes."""
    data = task.split(split)
    if data is None:
        return [()]
    assert isinstance(data, tuple), "the groups of a loader are gone"
    return list(zip(*(torch.split(tensor, sizes.tolist()) for tensor in data), strict=True))
