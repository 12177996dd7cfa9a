"""The data of a task on a device."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import devices
from thalweg.tasks.data.splits import Split, Splits


class LoaderOnDevice:
    """A loader whose batches are placed on a device as they are read. It has all attributes of the loader.

    Args:
        loader: An iterable with a length, such as a DataLoader.
        device: The device of the batches.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        self._loader, self._device = loader, device

    def __iter__(self) -> Iterator[Any]:
        return (place_batch(batch, self._device) for batch in self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy or an unpickled one has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)


def place_splits(splits: Splits, device: torch.device) -> Splits:
    """Return the splits with their tensors on a device; tensors that several splits share are moved once."""
    placed: dict[int, Tensor] = {}

    def place(split: Split) -> Split:
        if isinstance(split, tuple):
            for part in split:
                if id(part) not in placed:
                    placed[id(part)] = devices.place(part, device)
            return tuple(placed[id(part)] for part in split)
        return None if split is None else LoaderOnDevice(split, device)

    return replace(splits, train=place(splits.train), validation=place(splits.validation), test=place(splits.test))


def place_batch(batch: Any, device: torch.device) -> Any:
    """Return what a loader yields with its tensors on a device: a tensor, or lists, tuples and mappings of them."""
    if isinstance(batch, Tensor):
        return devices.place(batch, device)
    if isinstance(batch, Mapping):
        return {key: place_batch(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(place_batch(part, device) for part in batch)
    move = getattr(batch, "to", None)  # a batch object of the user's
    return move(device) if callable(move) else batch
