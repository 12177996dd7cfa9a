"""Means of a measure over groups of examples, from which follow the mean over a split and its standard error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.tasks import Batch, Task
from thalweg.tasks.data import as_batch, examples_in

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


def measure_in_groups(task: Task, split: str, measure: Callable[[Batch], Tensor], group_size: int) -> GroupMeans:
    """Measure a split group by group.

    Args:
        task: The task.
        split: ``train``, ``validation`` or ``test``. The test has at least ``NUM_TEST_GROUPS`` groups, if it has as
            many examples.
        measure: Returns the mean over a batch.
        group_size: Most examples in a group; a DataLoader makes groups of its own.
    """
    weighted = [(examples_in(group), measure(group)) for group in groups_of(task, split, group_size)]
    return GroupMeans(torch.tensor([size for size, _ in weighted]), torch.stack([mean for _, mean in weighted]))


def groups_of(task: Task, split: str, group_size: int) -> Iterable[Batch]:
    """Return the groups of ``measure_in_groups``; a task without data has one, which is empty."""
    data = task.split(split)
    if data is None:
        return [()]
    if not isinstance(data, tuple):
        return (as_batch(task.name, batch) for batch in data)
    if split == "test":
        group_size = max(1, min(group_size, len(data[0]) // NUM_TEST_GROUPS))
    return zip(*(tensor.split(group_size) for tensor in data), strict=True)
