"""Training batches: an endless sequence whose order depends on the seed alone, so that trainings are paired."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from thalweg.tasks import Batch, Task
from thalweg.tasks.data import as_batch, epochs_of_indices


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
        return _loaded(task, train)
    if full_batch:
        return itertools.repeat(train)
    indices = epochs_of_indices(len(train[0]), min(task.batch_size, len(train[0])), [seed])
    return (tuple(tensor[index[0]] for tensor in train) for index in indices)


def stacked_batches(task: Task, seeds: Sequence[int], *, full_batch: bool) -> Iterator[Batch]:
    """Yield training batches for all members of a population, without end; the first dimension is the member's.

    Args:
        task: A task whose data are held in memory.
        seeds: Seed of each member's order of examples.
        full_batch: True to yield all training data every time.
    """
    train = task.split("train")
    if train is None:
        return itertools.repeat(())
    assert isinstance(train, tuple), "a population's data are in memory"
    if full_batch:
        return itertools.repeat(tuple(tensor.expand(len(seeds), *tensor.shape) for tensor in train))
    # One lookup for all members: a lookup for each would take longer than the forward pass.
    indices = epochs_of_indices(len(train[0]), min(task.batch_size, len(train[0])), seeds)
    return (tuple(tensor[index] for tensor in train) for index in indices)


def _loaded(task: Task, loader: Iterable[Any]) -> Iterator[Batch]:
    for _ in itertools.count():
        for batch in loader:
            yield as_batch(task.name, batch)


def reseed_loaders(task: Task, seed: int) -> None:
    """Seed the generators that DataLoaders and their samplers hold; loaders without one follow torch's random state."""
    for name in ("train", "validation", "test"):
        for owner in (task.split(name), getattr(task.split(name), "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
