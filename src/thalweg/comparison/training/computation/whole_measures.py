"""Whole measures: metrics that are no mean over the examples, such as F1, AUC and RMSE, and how they are recognized."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from thalweg.comparison.training.computation.batches import restored_loaders
from thalweg.comparison.training.computation.joined_batches import JoinError, divide_batch, first_examples
from thalweg.errors import SettingWarning
from thalweg.tasks import Batch, Task, seeded
from thalweg.tasks.data import examples_in
from thalweg.tasks.user_code import line_of

NUM_EXAMPLES, NUM_PARTS = 64, 16  # tried on an untrained model: all together, and in parts
TOLERANCE = 1e-4  # of the value, for sums in another order
# Seeds of models, the next one only if all parts have one value: an F1 of 0 tells nothing. The later ones get weights
# that are larger than those of an untrained model, whose outputs may all be alike.
SEEDS, SEEDS_OF_LARGE_WEIGHTS = range(3), range(3, 9)

_known: WeakKeyDictionary[Task, dict[str, bool]] = WeakKeyDictionary()


def is_mean(task: Task, split: str, metric: str = "") -> bool:
    """Return True if the measure of a split is the mean of the measures of its parts.

    A loss is one. A metric is tried once, on models that are not trained: on examples together, and on parts of them.
    It is measured on a whole split if it is no mean, if it cannot be computed on a few examples, and if nothing is
    known because it has one value on all parts: the value on a whole split is right for every metric.

    A metric of batches that only the user can divide is taken for a mean, with a SettingWarning.

    Args:
        task: The task.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        metric: Name of one of the further metrics.
    """
    if not metric and task.measure(split) is task.loss:
        return True
    known = _known.setdefault(task, {})
    if metric not in known:
        known[metric] = _try(task, metric)
    return known[metric]


def _try(task: Task, metric: str) -> bool:
    with seeded(0), restored_loaders(task):
        batch = _some_examples(task)
        try:
            parts = divide_batch(batch, math.ceil(examples_in(batch) / NUM_PARTS))
        except JoinError as error:
            return _taken_for_mean(task, metric, str(error))
        sizes = list(map(examples_in, parts))
        for seed in (*SEEDS, *SEEDS_OF_LARGE_WEIGHTS):
            values = _measure(task, metric, batch, parts, seed)
            if values is None:
                return False
            whole, *of_parts = values
            mean = sum(size * part for size, part in zip(sizes, of_parts, strict=True)) / sum(sizes)
            if not abs(whole - mean) <= TOLERANCE * max(abs(whole), *map(abs, of_parts)):  # nan is no mean
                return False
            if len(set(of_parts)) > 1:
                return True
    return False


def _some_examples(task: Task) -> Batch:
    """Return examples of the test split, of data in memory from all over it: they may be sorted by their class."""
    data = task.split("test")
    if not isinstance(data, tuple):
        return first_examples(data, NUM_EXAMPLES)
    count = len(data[0])
    index = torch.linspace(0, count - 1, min(count, NUM_EXAMPLES)).long()
    return tuple(tensor[index.to(tensor.device)] for tensor in data)


def _taken_for_mean(task: Task, metric: str, reason: str) -> bool:
    """Return True, and warn if the loader has several batches: their number must be known for that alone."""
    loader: Any = task.split("test")
    if len(loader) > 1 and parent_process() is None:
        name, line = metric or task.measured_as("test").split(maxsplit=1)[-1], line_of(task.measure("test", metric))
        warnings.warn(
            f"{task.name}: {name} is averaged over the batches of a loader{f' (at {line})' if line else ''}: whether "
            f"it is a mean over the examples cannot be tried on {reason}. If it is none, as F1 and AUC, give the "
            "validation and the test loader one batch: batch_size=len(dataset).",
            SettingWarning,
            stacklevel=2,
        )
    return True


def _measure(task: Task, metric: str, batch: Batch, parts: Sequence[Batch], seed: int) -> list[float] | None:
    """Return the measure of a batch, and those of its parts; None if a part cannot be measured alone."""
    model = task.make_model(seed).eval()
    device = next(model.parameters()).device
    if seed in SEEDS_OF_LARGE_WEIGHTS:
        _enlarge_weights(model, seed)
    measure: Any = task.measure("test", metric)

    def values_of(batches: Sequence[Batch]) -> list[float]:
        def values() -> list[float]:
            with task.autocast(device):
                return [float(measure(model, part)) for part in batches]

        return task.evaluate(metric or "metric", values)

    with _quiet():
        whole = values_of([batch])
        try:
            return whole + values_of(parts)
        except Exception:
            return None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is asked for the AUC of a single class
        yield


@torch.no_grad()
def _enlarge_weights(model: nn.Module, seed: int) -> None:
    """Add normal random numbers to all parameters, drawn on the CPU so that every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        if param.is_floating_point():
            param.add_(torch.randn(param.shape, generator=generator).to(param))
