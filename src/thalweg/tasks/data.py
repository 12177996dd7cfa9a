"""The data of a task: three splits, each held in memory as tensors, or read through a DataLoader."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import TaskError

Batch = Any  # a tuple of tensors that share their first dimension, or a dict of such
Tensors = tuple[Tensor, ...]
Split = Tensors | Iterable[Any] | None


@dataclass(frozen=True, eq=False)
class Splits:
    """What is trained on, what selects a setting, and what judges it in the end.

    Each split is a tuple of tensors that share their first dimension, (inputs, targets) say, or anything that can be
    iterated for such batches again and again, as a DataLoader can. None stands for no data at all.
    """

    train: Split
    validation: Split
    test: Split

    @property
    def in_memory(self) -> bool:
        """Whether every split is held as tensors, so that batches can be drawn by index."""
        return all(split is None or isinstance(split, tuple) for split in (self.train, self.validation, self.test))


def check_split(who: str, name: str, split: Split) -> None:
    """Raise TaskError unless this is a split: tensors of one length, a loader that can be read again, or None."""
    if split is None:
        return
    if not isinstance(split, tuple) and isinstance(split, Iterable) and not isinstance(split, str | Tensor):
        if not isinstance(split, Sized) or len(split) == 0:
            raise TaskError(
                f"{who}: the {name} loader must say how many batches it has, at least 1, and be readable again and "
                f"again, got {type(split).__name__}. Use a DataLoader over a dataset with a length."
            )
        return
    if not isinstance(split, tuple) or not split or not all(isinstance(part, Tensor) for part in split):
        raise TaskError(f"{who}: the {name} split must be a tuple of tensors or a DataLoader, got {_described(split)}.")
    lengths = [len(part) if part.dim() else 0 for part in split]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise TaskError(
            f"{who}: the tensors of the {name} split must have one length, at least 1, got lengths {lengths}."
        )


def _described(split: Any) -> str:
    if not isinstance(split, tuple):
        return type(split).__name__
    return f"a tuple of {', '.join(type(part).__name__ for part in split)}" if split else "an empty tuple"


def split_at_random(tensors: Tensors, *, seed: int = 0, train: float = 0.6, validation: float = 0.2) -> Splits:
    """Split examples at random into train, validation and test, by these shares; the rest is the test."""
    count = len(tensors[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ends = [round(train * count), round((train + validation) * count)]
    parts = torch.tensor_split(order, ends)
    return Splits(*(tuple(tensor[part] for tensor in tensors) for part in parts))


def standardized(splits: Splits, parts: int = 1) -> Splits:
    """Splits whose first `parts` tensors have mean 0 and deviation 1 in each column of the training split; float32."""

    def tensors(split: Split) -> Tensors:
        assert isinstance(split, tuple), "what is standardized is held in memory"
        return split

    # The training split alone decides: a test that helped to scale would no longer be unseen.
    scales = [(part.mean(0), part.std(0)) for part in tensors(splits.train)[:parts]]

    def scaled(split: Split) -> Tensors:
        whole = tensors(split)
        pairs = zip(whole[:parts], scales, strict=True)
        return (*(((part - mean) / deviation).float() for part, (mean, deviation) in pairs), *whole[parts:])

    return Splits(scaled(splits.train), scaled(splits.validation), scaled(splits.test))


def epochs_of_indices(count: int, batch_size: int, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Without end: for each seed a row of indices, one batch; the last of a pass may be smaller.

    The order is shuffled anew each pass, and a row is decided by its seed alone.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        orders = torch.stack([torch.randperm(count, generator=generator) for generator in generators])
        yield from torch.split(orders, batch_size, dim=1)


def as_batch(who: str, loaded: Any) -> Batch:
    """What a loader yields as a batch: a lone tensor becomes a tuple of one, a list a tuple, a dict stays."""
    if isinstance(loaded, Tensor):
        return (loaded,)
    if isinstance(loaded, tuple | list):
        return tuple(loaded)
    if isinstance(loaded, Mapping):
        return dict(loaded)
    raise TaskError(f"{who}: a loader must yield tensors, or tuples or dicts of them, got {type(loaded).__name__}.")


def examples_in(batch: Batch) -> int:
    """How many examples a batch holds: the first dimension of its first tensor; 1 where there is none."""
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim()), 1)
