"""Training batches: an endless sequence whose order depends on the seed alone, so that trainings are paired."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from thalweg.engine.graphs import upload
from thalweg.tasks import Batch, Task
from thalweg.tasks.data import SPLIT_NAMES, epochs_of_indices, shuffled


def batches(task: Task, seed: int, *, full_batch: bool) -> Iterator[Batch]:
    """Yield the training batches of one model, without end; the same for the same seed.

    Args:
        task: The task.
        seed: Seed of the order of examples; a DataLoader has an order of its own.
        full_batch: True to yield all training data every time.
    """
    train = task.split("train")
    if train is None:
        return itertools.repeat(())
    if not isinstance(train, tuple):
        assert not full_batch, "Workload.training_schedule refuses a full batch from a DataLoader"
        return _loaded(train)
    if full_batch:  # views, so that a loss that marks its inputs for autograd leaves the data alone
        return (tuple(tensor.detach() for tensor in train) for _ in itertools.count())
    indices = epochs_of_indices(len(train[0]), min(task.batch_size, len(train[0])), [seed])
    return (tuple(tensor[index[0]] for tensor in train) for index in indices)


class StackedBatches:
    """Training batches for all members of a population; their first dimension is the member's.

    The data, the order of a pass and the position in it are on the device: ``take`` needs nothing from the host.

    Args:
        task: A task whose data are held in memory.
        seeds: Seed of each member's order of examples.
        full_batch: True to take all training data every time.
        device: The device of the models.
    """

    def __init__(self, task: Task, seeds: Sequence[int], *, full_batch: bool, device: torch.device) -> None:
        train = task.split("train")
        assert train is None or isinstance(train, tuple), "a population's data are in memory"
        self._data = tuple(tensor.to(device) for tensor in train or ())
        self._count = len(self._data[0]) if self._data else 0
        self._shuffles = bool(self._data) and not full_batch
        self._batch_size = min(task.batch_size, self._count)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._done = self._count  # of the current pass; a new pass begins with the first batch
        self._order = torch.zeros(len(seeds), self._count if self._shuffles else 0, dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._offsets = torch.arange(self._batch_size, device=device)

    def begin(self) -> int:
        """Begin the next batch: upload the order if a pass begins. Return the number of examples in the batch."""
        if not self._shuffles:
            return self._count
        if self._done == self._count:
            upload(self._order, shuffled(self._count, self._generators))
            self._position.zero_()
            self._done = 0
        size = min(self._batch_size, self._count - self._done)
        self._done += size
        return size

    def take(self, size: int) -> Batch:
        """Return the batch that has begun, of this size. Every operation is on the device."""
        if not self._shuffles:
            members = len(self._generators)
            return tuple(tensor.expand(members, *tensor.shape) for tensor in self._data)
        index = self._order.index_select(1, self._position + self._offsets[:size])
        self._position.add_(size)
        # One lookup for all members: a lookup for each would take longer than the forward pass.
        return tuple(tensor[index] for tensor in self._data)

    def keep(self, members: Sequence[int]) -> None:
        """Continue for these members alone."""
        self._generators = [self._generators[k] for k in members]
        self._order = self._order[list(members)]


def _loaded(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:  # a pass without a batch raises
        yield from loader


def reseed_loaders(task: Task, seed: int) -> None:
    """Seed the generators that DataLoaders and their samplers hold; loaders without one follow torch's random state."""
    for generator in _generators_of_loaders(task):
        generator.manual_seed(seed)


@contextmanager
def restored_loaders(task: Task) -> Iterator[None]:
    """Restore the generators of DataLoaders and their samplers at the end of the block."""
    states = [(generator, generator.get_state()) for generator in _generators_of_loaders(task)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _generators_of_loaders(task: Task) -> list[torch.Generator]:
    splits = [task.split(name) for name in SPLIT_NAMES]
    owners = [owner for split in splits for owner in (split, getattr(split, "sampler", None))]
    generators = [getattr(owner, "generator", None) for owner in owners]
    return [generator for generator in generators if isinstance(generator, torch.Generator)]
