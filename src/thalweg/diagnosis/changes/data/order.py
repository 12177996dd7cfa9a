"""Changes of which examples form a batch: shuffled, joined, or one batch again and again."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.diagnosis.changes.parts.batches import (
    derived_batches,
    drawn,
    iter_is_self,
    joined,
    rows_of,
    selected,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.tasks.training import Training

BUFFER = 64  # batches that are shuffled with each other


WHOLE_BATCHES = "the parts of a batch have no common first dimension"


def shuffled(batches: Iterator[Any], count: int = BUFFER) -> Iterator[Any]:
    """Yield batches whose examples are drawn from so many batches of others."""
    generator = torch.Generator().manual_seed(0)
    while buffer := list(itertools.islice(batches, count)):
        sizes = [rows_of(batch) for batch in buffer]
        everything = joined(buffer)
        order = torch.randperm(sum(sizes), generator=generator)
        for rows in torch.split(order, sizes):
            yield selected(everything, rows)


@dataclass(frozen=True, kw_only=True)
class Shuffle(Change):
    """Batches whose examples are shuffled over many batches."""

    def why_not(self, training: Training, where: str | None) -> str:
        first = drawn(training, 2)
        return "" if len(first) > 1 and all(rows_of(batch) for batch in first) else WHOLE_BATCHES

    def alter(self, training: Training, where: str | None) -> None:
        training.batches = derived_batches(training.batches, shuffled)

    def lines(self, training: Training, where: str | None) -> str:
        if isinstance(training.batches, torch.utils.data.DataLoader):
            loader = training.batches
            return (
                "import torch\n\n"
                "batches = torch.utils.data.DataLoader(\n"
                f"    batches.dataset, batch_size={loader.batch_size}, shuffle=True, collate_fn=batches.collate_fn\n)"
            )
        return _SHUFFLED + ("batches = shuffled(batches)" if iter_is_self(training.batches) else _AGAIN)


_SHUFFLED = f"""import itertools

import torch


def shuffled(batches, count={BUFFER}):  # or shuffle the examples before they are divided into batches
    generator = torch.Generator().manual_seed(0)
    while buffer := list(itertools.islice(batches, count)):
        order = torch.randperm(sum(len(batch[0]) for batch in buffer), generator=generator)
        columns = [torch.cat(column) for column in zip(*buffer)]
        for rows in order.split([len(batch[0]) for batch in buffer]):
            yield tuple(column[rows] for column in columns)


"""


_AGAIN = """class Shuffled:
    def __iter__(self, batches=batches):
        return shuffled(iter(batches))


batches = Shuffled()"""


@dataclass(frozen=True, kw_only=True)
class LargerBatches(Change):
    """Several batches joined to one, of at least 32 examples."""

    def _count(self, training: Training) -> int:
        rows = rows_of(drawn(training, 1)[0])
        return -(-32 // rows) if rows else 1

    def why_not(self, training: Training, where: str | None) -> str:
        if not rows_of(drawn(training, 1)[0]):
            return WHOLE_BATCHES
        return "" if self._count(training) > 1 else "batches have 32 examples or more"

    def alter(self, training: Training, where: str | None) -> None:
        count = self._count(training)

        def merged(batches: Iterator[Any]) -> Iterator[Any]:
            while group := list(itertools.islice(batches, count)):
                yield joined(group)

        training.batches = derived_batches(training.batches, merged)

    def lines(self, training: Training, where: str | None) -> str:
        if isinstance(training.batches, torch.utils.data.DataLoader):
            return (
                "import torch\n\n"
                "batches = torch.utils.data.DataLoader(batches.dataset, batch_size=32, shuffle=True, drop_last=True)"
            )
        return (
            "import itertools\n\nimport torch\n\n\n"
            f"def merged(batches, count={self._count(training)}):  # or choose a larger batch size\n"
            "    while group := list(itertools.islice(batches, count)):\n"
            "        yield tuple(torch.cat(column) for column in zip(*group))\n\n\n"
            "batches = merged(iter(batches))"
        )


@dataclass(frozen=True, kw_only=True)
class FixedSubset(Change):
    """The first batch again and again: a model that can learn anything learns it. A probe, no cure."""

    def alter(self, training: Training, where: str | None) -> None:
        first = drawn(training, 1)[0]
        training.batches = itertools.repeat(first)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import itertools\n\nbatches = itertools.repeat(next(iter(batches)))  # only to look whether it is learnt"
        )
