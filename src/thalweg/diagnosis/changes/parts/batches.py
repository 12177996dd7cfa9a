"""Batches of a training: drawn to look at, and replaced by others that are made of them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.diagnosis.changes.parts.functions import no_random
from thalweg.tasks.training import Training

Batch = Any


def derived_batches(batches: Iterable[Batch], make: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Iterable[Batch]:
    """Return batches that a function makes of others: an iterator of an iterator, else an iterable.

    Args:
        batches: The other batches.
        make: Makes an iterator of an iterator.
    """
    return make(iter(batches)) if iter_is_self(batches) else Remade(batches, make)


class Remade:
    """Batches that are made of other ones, anew each time.

    Args:
        batches: The other batches.
        make: Makes an iterator of an iterator.
    """

    def __init__(self, batches: Iterable[Batch], make: Callable[[Iterator[Batch]], Iterator[Batch]]) -> None:
        self._batches, self._make = batches, make

    def __iter__(self) -> Iterator[Batch]:
        return self._make(iter(self._batches))


class Peeked:
    """An iterator whose next batches have been looked at.

    Attributes:
        ahead: The batches that have been looked at and not yet given.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.ahead: list[Batch] = []
        self._rest = batches

    def __iter__(self) -> "Peeked":
        return self

    def __next__(self) -> Batch:
        return self.ahead.pop(0) if self.ahead else next(self._rest)

    def peek(self, count: int) -> list[Batch]:
        """Return the next batches, and give them again later."""
        self.ahead += islice(self._rest, max(0, count - len(self.ahead)))
        return self.ahead[:count]


def drawn(training: Training, count: int) -> list[Batch]:
    """Return the first batches. The training begins with them as before."""
    batches = training.batches
    if not iter_is_self(batches):
        return list(no_random(lambda: list(islice(iter(batches), count))))
    if not isinstance(batches, Peeked):
        training.batches = batches = Peeked(iter(batches))
    return batches.peek(count)


def draw_another(training: Training) -> None:
    """Draw a batch that has not been looked at before. The training begins as before."""
    drawn(training, len(training.batches.ahead) + 1 if isinstance(training.batches, Peeked) else 1)


def draw_code(training: Training, count: int, name: str) -> str:
    """Return the lines that draw the first batches, so that the training begins with them as before."""
    if iter_is_self(training.batches):
        return (
            "from itertools import chain, islice\n\n"
            f"{name} = list(islice(batches, {count}))\n"
            f"batches = chain({name}, batches)\n"
        )
    return f"from itertools import islice\n\n{name} = list(islice(iter(batches), {count}))\n"


def iter_is_self(batches: Iterable[Batch]) -> bool:
    """Return whether batches are an iterator, which cannot be begun again."""
    return hasattr(batches, "__next__")


def parts_of(batch: Batch) -> tuple[Any, ...]:
    """Return the inputs and the target of a batch."""
    return tuple(batch) if isinstance(batch, list | tuple) else (batch,)


def rows_of(batch: Batch) -> int:
    """Return the number of examples of a batch: the common first dimension of its tensors; 0 if there is none."""
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)}
    return sizes.pop() if len(sizes) == 1 else 0


def selected(batch: Batch, rows: Tensor) -> Batch:
    """Return some examples of a batch."""
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, batch)


def joined(batches: list[Batch]) -> Batch:
    """Return batches as one."""
    leaves, form = zip(*(tree_flatten(batch) for batch in batches), strict=True)
    columns = [
        torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*leaves, strict=True)
    ]
    return torch.utils._pytree.tree_unflatten(columns, form[0])
