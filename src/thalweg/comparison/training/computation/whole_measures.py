"""Whole measures: metrics that are no mean over the examples, such as F1, AUC and RMSE, and how they are recognized."""

import math
import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from thalweg.tasks import Batch, Task, seeded
from thalweg.tasks.data import examples_in

NUM_EXAMPLES, NUM_PARTS = 64, 16  # tried on an untrained model: all together, and in parts
TOLERANCE = 1e-4  # of the value, for sums in another order
SEEDS = range(3)  # of models, the next one only if all parts have one value: an F1 of 0 tells nothing

_known: WeakKeyDictionary[Task, dict[str, bool]] = WeakKeyDictionary()


def is_mean(task: Task, split: str, metric: str = "") -> bool:
    """Return True if the measure of a split is the mean of the measures of its parts.

    A loss is one. A metric is tried once, on untrained models: on examples together, and on parts of them. One that is
    no mean, or cannot be computed on a few examples, must be measured on a whole split.

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
    batch = task.first_batch("test", NUM_EXAMPLES)
    if not isinstance(batch, tuple) or not batch or not all(isinstance(part, torch.Tensor) for part in batch):
        return True  # there are no parts, or nobody but the user can make them
    for seed in SEEDS:
        values = _measure(task, metric, batch, seed)
        if values is None:
            return False
        whole, parts, sizes = values
        mean = sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        if not abs(whole - mean) <= TOLERANCE * max(abs(whole), *map(abs, parts)):  # not a number is no mean
            return False
        if len(set(parts)) > 1:
            return True
    return True


def _measure(task: Task, metric: str, batch: Batch, seed: int) -> tuple[float, list[float], list[int]] | None:
    """Return the measure of a batch, those of its parts, and their sizes; None if a part cannot be measured alone."""
    model = task.make_model(seed).eval()
    device = next(model.parameters()).device
    size = math.ceil(examples_in(batch) / NUM_PARTS)
    parts = list(zip(*(tensor.split(size) for tensor in batch), strict=True))
    measure: Any = task.measure("test", metric)

    def values_of(batches: Sequence[Batch]) -> list[float]:
        def values() -> list[float]:
            with task.autocast(device):
                return [float(measure(model, part)) for part in batches]

        return task.evaluate(metric or "metric", values)

    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is asked for the AUC of a single class
        (whole,) = values_of([batch])
        try:
            return whole, values_of(parts), list(map(examples_in, parts))
        except Exception:
            return None
