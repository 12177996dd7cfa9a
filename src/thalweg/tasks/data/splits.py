"""The data of a task: three splits, each in memory as tensors, or read through a DataLoader."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.tasks.data.arrays import without_graph
from thalweg.tasks.user_code import task_error

Batch = Any  # a tuple of tensors that share their first dimension, a dict of such tensors, or an object of the user's
Tensors = tuple[Tensor, ...]
Split = Tensors | Iterable[Any] | None
SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Splits:
    """The data for training, for choosing settings, and for the final evaluation.

    Each split is a tuple of tensors or arrays that share their first dimension, for example (inputs, targets); or an
    object that can be iterated for such batches many times, for example a DataLoader; or a dataset, or a dict of
    tensors, of which a task makes batches; or None for no data. A loader of a stream (``IterableDataset``) should
    declare its length by ``__len__`` of the dataset. Otherwise one pass over it is counted.

    Attributes:
        train: The data to train on.
        validation: The data on which settings are chosen. None chooses on the training data.
        test: The data on which the chosen settings are evaluated. None evaluates on the data that choose.

    Example:
        >>> import torch
        >>> from thalweg.tasks import Splits
        >>> inputs = torch.rand(30, 2)
        >>> Splits((inputs[:20],), (inputs[20:25],), (inputs[25:],)).in_memory
        True
    """

    train: Split
    validation: Split = None
    test: Split = None

    @property
    def in_memory(self) -> bool:
        """True if every split consists of tensors (or is None), so that batches can be taken by index."""
        return all(split is None or isinstance(split, tuple) for split in (self.train, self.validation, self.test))


def completed(task_name: str, splits: Splits, made_at: str = "") -> Splits:
    """Return splits that all hold data, or none: a missing test split is the validation split, that the training split.

    Raises:
        TaskError: If there are validation or test data, and no training data.
    """
    if splits.train is None and (splits.validation is not None or splits.test is not None):
        raise task_error(
            task_name,
            "the train split must hold data if another split does",
            "None",
            "Pass it, or pass no data.",
            where=made_at,
        )
    validation = splits.train if splits.validation is None else splits.validation
    return Splits(splits.train, validation, validation if splits.test is None else splits.test)


def split_at_random(tensors: Tensors, *, seed: int = 0, train: float = 0.6, validation: float = 0.2) -> Splits:
    """Split examples at random into train, validation and test.

    Args:
        tensors: Tensors that share their first dimension, the number of examples.
        seed: Seed of the random order.
        train: Share of the examples for training, between 0 and 1.
        validation: Share of the examples for validation, between 0 and 1. The rest is the test split.

    Returns:
        The three splits, each a tuple with a part of each tensor.

    Example:
        >>> import torch
        >>> from thalweg.tasks import split_at_random
        >>> splits = split_at_random((torch.rand(10, 3), torch.arange(10)))
        >>> [len(targets) for _, targets in (splits.train, splits.validation, splits.test)]
        [6, 2, 2]
    """
    count = len(tensors[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ends = [round(train * count), round((train + validation) * count)]
    parts = torch.tensor_split(order, ends)
    return Splits(*(tuple(without_graph(tensor[part]) for tensor in tensors) for part in parts))


def standardized(splits: Splits, parts: int = 1) -> Splits:
    """Return float32 splits whose first ``parts`` tensors have mean 0 and deviation 1 in each training column."""

    def tensors(split: Split) -> Tensors:
        assert isinstance(split, tuple), "only data in memory can be standardized"
        return split

    # Use the training split only: a test split that helps to scale the data is no longer unseen.
    scales = [(part.mean(0), part.std(0)) for part in tensors(splits.train)[:parts]]

    def scaled(split: Split) -> Tensors:
        whole = tensors(split)
        pairs = zip(whole[:parts], scales, strict=True)
        return (*(((part - mean) / deviation).float() for part, (mean, deviation) in pairs), *whole[parts:])

    return Splits(scaled(splits.train), scaled(splits.validation), scaled(splits.test))


def epochs_of_indices(count: int, batch_size: int, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Yield the example indices of one batch after another, without end, with a row for each seed.

    The order is shuffled anew in each pass, and the last batch of a pass may be smaller. A row depends only on its
    seed.

    Args:
        count: Number of examples.
        batch_size: Examples in a batch.
        seeds: One seed for each row.

    Yields:
        Indices of shape (seeds, batch).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield from torch.split(shuffled(count, generators), batch_size, dim=1)


def shuffled(count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return the order of one pass over ``count`` examples, of shape (generators, count); each draws its own row."""
    return torch.stack([torch.randperm(count, generator=generator) for generator in generators])


def examples_in(batch: Batch) -> int:
    """Return the number of examples in a batch: the first dimension of its first tensor, or 1 if there is none."""
    if not isinstance(batch, Mapping | tuple | list):  # a batch object of the user's
        return len(batch) if isinstance(batch, Sized) else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim()), 1)
