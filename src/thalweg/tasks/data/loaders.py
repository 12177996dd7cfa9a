"""Loaders of batches as a comparison reads them: many times, with a known number of batches in a pass."""

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from thalweg.errors import TaskError
from thalweg.tasks.data.arrays import array_as_tensor, is_array
from thalweg.tasks.data.splits import Batch
from thalweg.tasks.reproducibility.seeded import seeded
from thalweg.tasks.user_code import task_error

# A pass is counted if its loader does not know its length; an endless one must be given up at some time.
MAX_COUNTED_BATCHES, MAX_COUNTING_S = 20_000, 30.0


class BatchLoader:
    """An iterable of batches that has a length, at least 1, and can be read many times. It has all attributes of it.

    If the iterable has no length, one pass over it is counted when the length is first needed. A pass ends after as
    many batches as the length says, so a stream without end can be a split if it declares a length.

    Args:
        loader: The user's iterable, such as a DataLoader.
        task_name: Name of the task, for messages.
        split_name: Name of the split, for messages.
        made_at: The user's line that made the task, for messages.
    """

    def __init__(self, loader: Iterable[Any], task_name: str, split_name: str, made_at: str = "") -> None:
        self._loader, self._task_name, self._split_name, self._made_at = loader, task_name, split_name, made_at
        self._length: int | None = None
        self._check()

    def _check(self) -> None:
        """Raise TaskError if the iterable can be read only once, or is empty."""
        if isinstance(self._loader, Iterator):
            raise self._error(
                "must be readable many times",
                f"{_type_of(self._loader)}, which can be read once",
                "Pass list(...) of it, or an object whose __iter__ begins anew.",
            )
        declared = _declared_length(self._loader)
        if declared is not None and declared < 1:
            drops = getattr(self._loader, "drop_last", False)
            raise self._error(
                "must have at least 1 batch",
                f"{_type_of(self._loader)} of length {declared}",
                "Its drop_last=True leaves no batch: choose a smaller batch_size." if drops else "Pass more data.",
            )
        self._length = declared

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of a pass. Raises TaskError if there are none, or if one is no batch."""
        count = 0
        # Only a stream is cut: it may have no end.
        limit = len(self) if _is_stream(self._loader) else None
        for loaded in islice(self._loader, limit):
            count += 1
            yield as_batch(self._task_name, loaded, self._made_at)
        if count == 0:
            raise self._error(
                "must have batches in each pass",
                f"{_type_of(self._loader)} without a batch" + (", after a first pass" if self._length else ""),
                "Its __iter__ must begin anew each time, and yield a batch.",
            )

    def __len__(self) -> int:
        """Return the number of batches in a pass. Raises TaskError if it is not declared and cannot be counted."""
        if self._length is None:
            with seeded(0):
                self._length = self._count()
        return self._length

    def _count(self) -> int:
        start_s, count = time.monotonic(), 0
        for _ in self._loader:
            count += 1
            if count > MAX_COUNTED_BATCHES or time.monotonic() - start_s > MAX_COUNTING_S:
                raise self._error(
                    "must have a length, or a pass that ends soon",
                    f"{_type_of(self._loader)} without __len__, and more than {count - 1:,} batches",
                    "Give its dataset a method __len__ that returns the number of examples in a pass.",
                )
        if count == 0:
            raise self._error("must have at least 1 batch", f"an empty {_type_of(self._loader)}", "Pass more data.")
        return count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy or an unpickled one has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def _error(self, condition: str, got: str, remedy: str) -> TaskError:
        return task_error(
            self._task_name, f"the {self._split_name} loader {condition}", got, remedy, where=self._made_at
        )


def _is_stream(loader: Any) -> bool:
    return isinstance(loader, IterableDataset) or isinstance(getattr(loader, "dataset", None), IterableDataset)


def _declared_length(loader: Any) -> int | None:
    """Return the length that a loader declares; None if it declares none, as most loaders of streams."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _type_of(loader: Any) -> str:
    dataset = getattr(loader, "dataset", None)
    kind = type(loader).__name__
    return kind if dataset is None else f"{kind} of {type(dataset).__name__}"


class TensorLoader:
    """Batches of a dict of tensors: dicts of the same keys.

    Args:
        tensors: Tensors that share their first dimension.
        batch_size: Examples in a batch; the last one of a pass may be smaller.
        shuffle: True for a new order in each pass.

    Attributes:
        generator: The generator of the order, which a training seeds.
    """

    def __init__(self, tensors: Mapping[str, Tensor], batch_size: int, *, shuffle: bool) -> None:
        self._tensors, self._shuffle = dict(tensors), shuffle
        self.batch_size = batch_size
        self.num_examples = len(next(iter(self._tensors.values())))
        self.generator = torch.Generator()

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(self.num_examples)
        if self._shuffle:
            order = torch.randperm(self.num_examples, generator=self.generator)
        for index in torch.split(order, self.batch_size):
            yield {key: tensor[index] for key, tensor in self._tensors.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.generator = torch.Generator()
        self.generator.set_state(state["generator"])


def loader_of_dataset(dataset: Any, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """Return a loader of a dataset. The order follows from a generator of its own, which a training seeds."""
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=batch_size)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=torch.Generator())


def as_batch(task_name: str, loaded: Any, made_at: str = "") -> Batch:
    """Return what a loader yields as a batch: a tensor or list becomes a tuple, a mapping a dict, an array a tensor.

    Args:
        task_name: Name of the task, for messages.
        loaded: A tensor, or a tuple, list or mapping; objects with a method ``to_dict`` or fields stay as they are.
        made_at: The user's line that made the task, for messages.

    Raises:
        TaskError: If it is none of these, such as text or a number.
    """
    if isinstance(loaded, Tensor):
        return (loaded,)
    if isinstance(loaded, np.ndarray):
        return (array_as_tensor(loaded),)
    if isinstance(loaded, tuple | list):
        return tuple(array_as_tensor(part) if is_array(part) else part for part in loaded)
    if isinstance(loaded, Mapping):
        return {key: array_as_tensor(part) if is_array(part) else part for key, part in loaded.items()}
    if loaded is None or isinstance(loaded, str | bytes | int | float):
        raise task_error(
            task_name,
            "a loader must yield batches, which are tensors, or tuples or dicts of them",
            f"{type(loaded).__name__}",
            "A DataLoader makes batches of a dataset's examples.",
            where=made_at,
        )
    return loaded  # a batch object of the user's, as of PyTorch Geometric, which the loss knows how to read
