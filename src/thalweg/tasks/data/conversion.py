"""From the data that users have to splits: tensors in memory, or loaders that can be read many times.

A split in memory is a tuple of tensors; arrays and lists of numbers become tensors. Everything else is a loader.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from thalweg.errors import TaskError
from thalweg.tasks.data.arrays import array_as_tensor, is_array_like
from thalweg.tasks.data.loaders import BatchLoader, TensorLoader, loader_of_dataset
from thalweg.tasks.data.splits import SPLIT_NAMES, Split, Splits, Tensors, split_at_random
from thalweg.tasks.user_code import task_error

MIN_EXAMPLES_TO_SPLIT = 5
_SHARES = (0.6, 0.2, 0.2)


class Conversion(NamedTuple):
    """The facts of a task that decide how its data are read.

    Attributes:
        task_name: Name of the task, for messages.
        made_at: The user's line that made the data or the task, for messages.
        batch_size: Examples in a batch of a dataset.
        float_dtype: Returns the dtype for real numbers of arrays and lists.
    """

    task_name: str
    made_at: str
    batch_size: int
    float_dtype: Callable[[], torch.dtype] = torch.get_default_dtype

    def splits(self, data: Any) -> Splits:
        """Return the three splits of a task's data.

        Args:
            data: ``Splits``; three splits in a tuple, or in a dict with the keys train, validation and test; or whole
                data, which are split 60/20/20 at random: a tensor, tuple, list or dict of tensors, arrays or lists, or
                a dataset.

        Raises:
            TaskError: If they are none of these, or a split is empty or has parts of different lengths.
        """
        if isinstance(data, Mapping) and set(data) == set(SPLIT_NAMES):
            data = Splits(**data)
        if isinstance(data, tuple | list) and len(data) == len(SPLIT_NAMES) and not any(map(is_array_like, data)):
            data = Splits(*data)
        if isinstance(data, Splits):
            return Splits(*(self.split(name, getattr(data, name)) for name in SPLIT_NAMES))
        return self._split_whole(data)

    def _split_whole(self, data: Any) -> Splits:
        """Return a random split of whole data."""
        if isinstance(data, DataLoader) or _is_several_loaders(data):
            raise self._error(
                "data must be a tuple of tensors, a dataset or Splits",
                _type_of(data),
                "Pass loaders as thalweg.Splits(train, validation, test), with None for a test set that you do not "
                "have. To have one set divided 60/20/20, pass its dataset in place of the loader.",
            )
        tensors = self._tensors("whole", tuple(data) if isinstance(data, list) else data)
        if tensors is not None:
            self._check_count(len(tensors[0]))
            return split_at_random(tensors)
        if isinstance(data, Mapping):
            named = self._named_tensors("whole", data)
            self._check_count(len(next(iter(named.values()))))
            parts = split_at_random(tuple(named.values()))
            dicts = [dict(zip(named, part, strict=True)) for part in (parts.train, parts.validation, parts.test)]  # type: ignore[arg-type]
            return Splits(*(self.split(name, part) for name, part in zip(SPLIT_NAMES, dicts, strict=True)))
        if _is_dataset(data) and not isinstance(data, IterableDataset):
            self._check_count(len(data))
            subsets = random_split(data, _SHARES, torch.Generator().manual_seed(0))
            return Splits(*(self.split(name, part) for name, part in zip(SPLIT_NAMES, subsets, strict=True)))
        raise self._error(
            "data must be a tuple of tensors, a dataset or Splits",
            _type_of(data),
            "Pass three iterables of batches as thalweg.Splits(train, validation, test).",
        )

    def _check_count(self, count: int) -> None:
        if count < MIN_EXAMPLES_TO_SPLIT:
            raise self._error(
                f"at least {MIN_EXAMPLES_TO_SPLIT} examples are needed to split 60/20/20",
                str(count),
                "Pass thalweg.Splits.",
            )

    def split(self, name: str, value: Any) -> Split:
        """Return a split: a tuple of tensors of one length, a loader with a length, or None.

        Args:
            name: Name of the split, for messages; ``"train"`` is shuffled if it is a dataset.
            value: The split as the user has it.

        Raises:
            TaskError: If it is no split.
        """
        if value is None:
            return None
        tensors = self._tensors(name, value)
        if tensors is not None:
            return tensors
        shuffle = name == "train"
        if isinstance(value, Mapping):
            return self._loader(name, TensorLoader(self._named_tensors(name, value), self.batch_size, shuffle=shuffle))
        if _is_dataset(value):
            self._check_dataset(name, value)
            return self._loader(name, loader_of_dataset(value, self.batch_size, shuffle=shuffle))
        if isinstance(value, list) and value and _is_example(value[0]):
            return self._loader(name, loader_of_dataset(value, self.batch_size, shuffle=shuffle))
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | tuple):
            if isinstance(value, list) and value and all(map(is_array_like, value)):
                raise self._error(
                    f"the {name} split must be a tuple of tensors or a list of batches",
                    "a list of tensors, which may be either",
                    "Pass a tuple (inputs, targets), or batches [(inputs,), (inputs,), ...].",
                )
            return self._loader(name, value)
        raise self._not_a_split(name, value)

    def _tensors(self, name: str, value: Any) -> Tensors | None:
        """Return data in memory as tensors of one length; None if they are something else."""
        dataset_tensors = _tensors_of_dataset(value)
        if dataset_tensors is not None:
            parts: Sequence[Any] = dataset_tensors
        elif is_array_like(value) and not isinstance(value, list):
            parts = (value,)
        elif isinstance(value, tuple) or (isinstance(value, list) and _are_parts(value)):
            if not value or not all(map(is_array_like, value)):
                raise self._not_a_split(name, value)
            parts = value
        else:
            return None
        tensors = tuple(self._tensor(name, str(k), part) for k, part in enumerate(parts))
        self._check_lengths(name, tensors)
        return tensors

    def _named_tensors(self, name: str, value: Mapping[str, Any]) -> dict[str, Tensor]:
        if not value or not all(map(is_array_like, value.values())):
            raise self._not_a_split(name, value)
        named = {key: self._tensor(name, repr(key), part) for key, part in value.items()}
        self._check_lengths(name, tuple(named.values()))
        return named

    def _tensor(self, name: str, part: str, value: Any) -> Tensor:
        try:
            return array_as_tensor(value, self.float_dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._error(
                f"part {part} of the {name} split must be a rectangular array of numbers",
                str(error),
                "Encode text and categories as numbers, and pad sequences to one length.",
            ) from error

    def _check_lengths(self, name: str, tensors: Tensors) -> None:
        lengths = [len(tensor) if tensor.dim() else 0 for tensor in tensors]
        if len(set(lengths)) != 1 or lengths[0] == 0:
            raise self._error(f"the tensors of the {name} split must have one length, at least 1", f"lengths {lengths}")

    def _check_dataset(self, name: str, dataset: Any) -> None:
        if not isinstance(dataset, IterableDataset) and len(dataset) == 0:
            raise self._error(f"the {name} split must have examples", f"an empty {type(dataset).__name__}")

    def _loader(self, name: str, loader: Iterable[Any]) -> BatchLoader:
        return BatchLoader(loader, self.task_name, name, self.made_at)

    def _not_a_split(self, name: str, value: Any) -> TaskError:
        return self._error(
            f"the {name} split must be a tuple of tensors or a DataLoader",
            _type_of(value),
            "Arrays of numpy, datasets and dicts of tensors are fine, too.",
        )

    def _error(self, condition: str, got: str, remedy: str = "") -> TaskError:
        return task_error(self.task_name, condition, got, remedy, where=self.made_at)


def _tensors_of_dataset(value: Any) -> Tensors | None:
    """Return the tensors of a TensorDataset, or of a part of one; None of any other value."""
    if type(value) is TensorDataset:
        return tuple(value.tensors)
    if type(value) is Subset:
        tensors = _tensors_of_dataset(value.dataset)
        index = torch.as_tensor(list(value.indices), dtype=torch.int64)
        return None if tensors is None else tuple(tensor[index] for tensor in tensors)
    return None


def _is_dataset(value: Any) -> bool:
    """Return True for a dataset of torch's, or an object with its methods that is not a collection."""
    has_methods = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return isinstance(value, Dataset) or (has_methods and not isinstance(value, Iterable | Mapping))


def _is_several_loaders(value: Any) -> bool:
    return isinstance(value, tuple | list) and any(isinstance(part, DataLoader) for part in value)


def _is_list_of_arrays(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(is_array_like, value))


def _are_parts(value: list[Any]) -> bool:
    """Return True if a list of arrays holds inputs and targets: batches would have one dtype and shape."""
    if not _is_list_of_arrays(value):
        return False
    try:
        tensors = [array_as_tensor(part) for part in value]
    except ValueError:
        return False
    kinds = {(tensor.dtype, tensor.dim()) for tensor in tensors}
    return len(kinds) > 1 and len({len(tensor) if tensor.dim() else 0 for tensor in tensors}) == 1


def _is_example(value: Any) -> bool:
    """Return True if an item of a list is a single example: one of its parts is a number, which no batch has."""
    parts = value if isinstance(value, tuple | list) else ()
    return any(isinstance(part, bool | int | float) or (isinstance(part, Tensor) and part.dim() == 0) for part in parts)


def _type_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value))}" if value else "an empty dict"
    if isinstance(value, DataLoader):
        return "one DataLoader"
    if not isinstance(value, tuple):
        return type(value).__name__
    return f"a tuple of {', '.join(type(part).__name__ for part in value)}" if value else "an empty tuple"
