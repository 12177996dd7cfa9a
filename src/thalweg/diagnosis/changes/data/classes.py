"""Changes of how much classes count: by the draw of examples or by weights in the loss."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.changes.data.order import BUFFER, WHOLE_BATCHES
from thalweg.diagnosis.changes.data.scale import LOOKED_AT
from thalweg.diagnosis.changes.parts.batches import (
    derived_batches,
    drawn,
    joined,
    parts_of,
    rows_of,
    selected,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.output import uses_loss_fn
from thalweg.tasks.training import Training


def classes_of(target: Any) -> Tensor | None:
    """Return the class of each example of a target; None if it is no target of classes."""
    if not isinstance(target, Tensor) or target.dim() not in (1, 2) or (target.dim() == 2 and target.shape[1] != 1):
        return None
    flat = target.reshape(-1)
    if flat.is_floating_point() and not bool(((flat == 0) | (flat == 1)).all()):
        return None
    return flat.long()


def balanced(batches: Iterator[Any], count: int = BUFFER) -> Iterator[Any]:
    """Yield batches in which all classes are drawn equally often from so many batches of others."""
    generator = torch.Generator().manual_seed(0)
    while buffer := list(itertools.islice(batches, count)):
        sizes = [rows_of(batch) for batch in buffer]
        everything = joined(buffer)
        labels = classes_of(parts_of(everything)[-1])
        assert labels is not None
        _, classes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        weights = 1.0 / counts[classes]
        chosen = torch.multinomial(weights, sum(sizes), replacement=True, generator=generator)
        for rows in torch.split(chosen, sizes):
            yield selected(everything, rows)


def why_not_imbalanced(training: Training) -> str:
    """Return why no class is larger than another one; empty if one is."""
    batches = drawn(training, LOOKED_AT)
    if not all(rows_of(batch) for batch in batches):
        return WHOLE_BATCHES
    matches = [labels for batch in batches if (labels := classes_of(parts_of(batch)[-1])) is not None]
    if len(matches) < len(batches):
        return "the targets are no classes"
    counts = torch.bincount(torch.cat(matches))
    counts = counts[counts > 0]
    return "" if len(counts) > 1 and counts.max() > counts.min() else "the classes are equally frequent"


@dataclass(frozen=True, kw_only=True)
class BalanceClasses(Change):
    """Batches in which all classes are equally frequent, drawn with replacement."""

    def why_not(self, training: Training, where: str | None) -> str:
        return why_not_imbalanced(training)

    def alter(self, training: Training, where: str | None) -> None:
        training.batches = derived_batches(training.batches, balanced)

    def lines(self, training: Training, where: str | None) -> str:
        return _BALANCED


_BALANCED = f"""import itertools

import torch


def balanced(batches, count={BUFFER}):  # or torch.utils.data.WeightedRandomSampler
    generator = torch.Generator().manual_seed(0)
    while buffer := list(itertools.islice(batches, count)):
        columns = [torch.cat(column) for column in zip(*buffer)]
        _, classes, counts = columns[-1].reshape(-1).unique(return_inverse=True, return_counts=True)
        sizes = [len(batch[0]) for batch in buffer]
        chosen = torch.multinomial(1.0 / counts[classes], sum(sizes), replacement=True, generator=generator)
        for rows in chosen.split(sizes):
            yield tuple(column[rows] for column in columns)


batches = balanced(iter(batches))"""


@dataclass(frozen=True, kw_only=True)
class WeightClasses(Change):
    """A loss in which classes count by the inverse of their size."""

    def why_not(self, training: Training, where: str | None) -> str:
        if type(training.loss_fn) not in (torch.nn.CrossEntropyLoss, torch.nn.BCEWithLogitsLoss):
            return "the loss is no CrossEntropyLoss or BCEWithLogitsLoss"
        if not uses_loss_fn(training):
            return "the step does not use loss_fn"
        return why_not_imbalanced(training)

    def _weights(self, training: Training) -> tuple[str, Tensor]:
        labels = torch.cat([parts_of(batch)[-1].reshape(-1) for batch in drawn(training, LOOKED_AT)]).long()
        counts = torch.bincount(labels).double()
        if isinstance(training.loss_fn, torch.nn.BCEWithLogitsLoss):
            return "pos_weight", (counts[0] / counts[1]).reshape(1)
        counts = counts.clamp_min(1.0)
        return "weight", counts.sum() / (len(counts) * counts)

    def alter(self, training: Training, where: str | None) -> None:
        name, weights = self._weights(training)
        target = parts_of(drawn(training, 1)[0])[-1]
        kind: Any = type(training.loss_fn)
        training.loss_fn = kind(**{name: weights.float().to(target.device)})

    def lines(self, training: Training, where: str | None) -> str:
        name, weights = self._weights(training)
        values = ", ".join(f"{value:.7g}" for value in weights.tolist())
        return f"import torch\n\nloss_fn = torch.nn.{type(training.loss_fn).__name__}({name}=torch.tensor([{values}]))"
