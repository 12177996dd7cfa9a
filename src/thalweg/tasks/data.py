"""The data of a task: three splits, each in memory as tensors, or read through a DataLoader."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import TaskError

Batch = Any  # a tuple of tensors that share their first dimension, or a dict of such tensors
Tensors = tuple[Tensor, ...]
Split = Tensors | Iterable[Any] | None


@dataclass(frozen=True, eq=False)
class Splits:
    """The data for training, for choosing settings, and for the final evaluation.

    Each split is a tuple of tensors that share their first dimension, for example (inputs, targets); or an object that
    can be iterated for such batches many times and has a length, for example a DataLoader; or None for no data.

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


def check_split(task_name: str, split_name: str, split: Split) -> None:
    """Raise TaskError unless this is a split: tensors of one length, a loader with a length, or None."""
    if split is None:
        return
    if not isinstance(split, tuple) and isinstance(split, Iterable) and not isinstance(split, str | Tensor):
        if not isinstance(split, Sized) or len(split) == 0:
            raise TaskError(
                f"{task_name}: the {split_name} loader must have a length, at least 1, and be readable many times, "
                f"got {type(split).__name__}. Use a DataLoader over a dataset with a length."
            )
        return
    if not isinstance(split, tuple) or not split or not all(isinstance(part, Tensor) for part in split):
        raise TaskError(
            f"{task_name}: the {split_name} split must be a tuple of tensors or a DataLoader, got {_type_of(split)}."
        )
    lengths = [len(part) if part.dim() else 0 for part in split]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise TaskError(
            f"{task_name}: the tensors of the {split_name} split must have one length, at least 1, got lengths "
            f"{lengths}."
        )


def completed(task_name: str, splits: Splits) -> Splits:
    """Return splits that all hold data, or none: a missing test split is the validation split, that the training split.

    Raises:
        TaskError: If there are validation or test data, and no training data.
    """
    if splits.train is None and (splits.validation is not None or splits.test is not None):
        raise TaskError(
            f"{task_name}: the train split must hold data if another split does, got None. Pass it, or pass no data."
        )
    validation = splits.train if splits.validation is None else splits.validation
    return Splits(splits.train, validation, validation if splits.test is None else splits.test)


def _type_of(split: Any) -> str:
    if not isinstance(split, tuple):
        return type(split).__name__
    return f"a tuple of {', '.join(type(part).__name__ for part in split)}" if split else "an empty tuple"


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
    return Splits(*(tuple(tensor[part] for tensor in tensors) for part in parts))


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


def as_batch(task_name: str, loaded: Any) -> Batch:
    """Return what a loader yields as a batch: a tensor or list becomes a tuple, a mapping becomes a dict."""
    if isinstance(loaded, Tensor):
        return (loaded,)
    if isinstance(loaded, tuple | list):
        return tuple(loaded)
    if isinstance(loaded, Mapping):
        return dict(loaded)
    raise TaskError(
        f"{task_name}: a loader must yield tensors, or tuples or dicts of them, got {type(loaded).__name__}."
    )


def examples_in(batch: Batch) -> int:
    """Return the number of examples in a batch: the first dimension of its first tensor, or 1 if there is none."""
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim()), 1)
