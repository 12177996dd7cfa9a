"""Changes of the data: their scale, their order, their classes, their augmentation, and the size of batches."""

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from thalweg.diagnosis.changes.parts.batches import (
    Made,
    draw_another,
    draw_code,
    drawn,
    iter_is_self,
    joined,
    parts_of,
    rows_of,
    selected,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import (
    Replacement,
    Replacing,
    calling_line_of_user,
    is_float,
    name_of_function,
)
from thalweg.diagnosis.changes.parts.output import plain_output, uses_loss_fn
from thalweg.tasks.training import Training

LOOKED_AT = 32  # batches from which statistics are taken
BUFFER = 64  # batches that are shuffled with each other
_WHOLE_BATCHES = "the parts of a batch have no common first dimension"


def statistics_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each feature: a column, a channel of images, the last dimension of others.

    Features that do not vary get a deviation of 1.
    """
    kept = 1 if values.dim() in (2, 4, 5) else values.dim() - 1
    dims = [dim for dim in range(values.dim()) if dim != kept] if values.dim() > 1 else [0]
    values = values.double()
    mean, std = values.mean(dims, keepdim=True), values.std(dims, keepdim=True)
    return mean, torch.where(std > 1e-6 * std.max(), std, 1.0)


def _finite_rows(batches: list[Any], place: int) -> Tensor:
    values = torch.cat([parts_of(batch)[place] for batch in batches])
    return values[values.isfinite().reshape(len(values), -1).all(1)]


@dataclass(frozen=True, kw_only=True)
class NormalizeInputs(Change):
    """Inputs with mean 0 and deviation 1 for each feature, in training and in evaluation."""

    def why_not(self, training: Training, where: str | None) -> str:
        inputs = parts_of(drawn(training, 1)[0])[:-1]
        if not inputs or not is_float(inputs[0]):
            return "the inputs are no real numbers"
        return "" if inputs[0].dim() > 1 and rows_of(drawn(training, 1)[0]) else "the inputs are no batch of features"

    def alter(self, training: Training, where: str | None) -> None:
        values = _finite_rows(drawn(training, LOOKED_AT), 0)
        mean, std = (part.to(values.dtype) for part in statistics_of(values))

        def normalize(module: Any, args: Any) -> Any:
            if not args or not is_float(args[0]) or args[0].dim() != mean.dim():
                return None
            return ((args[0] - mean.to(args[0])) / std.to(args[0]), *args[1:])

        training.model.register_forward_pre_hook(normalize, prepend=True)

    def lines(self, training: Training, where: str | None) -> str:
        values = parts_of(drawn(training, 1)[0])[0]
        kept = 1 if values.dim() in (2, 4, 5) else values.dim() - 1
        dims = tuple(dim for dim in range(values.dim()) if dim != kept)
        return (
            draw_code(training, LOOKED_AT, "drawn")
            + "\nimport torch\n\n"
            + "inputs = torch.cat([batch[0] for batch in drawn])\n"
            + f"mean, std = inputs.mean({dims}, keepdim=True), inputs.std({dims}, keepdim=True)\n"
            + "std[std <= 1e-6 * std.max()] = 1.0\n"
            + "model.register_forward_pre_hook(lambda module, args: ((args[0] - mean) / std, *args[1:]))"
        )


@dataclass(frozen=True, kw_only=True)
class NormalizeTargets(Change):
    """A loss of targets with mean 0 and deviation 1; the model still returns values in their own units."""

    def why_not(self, training: Training, where: str | None) -> str:
        found = plain_output(training)
        if found is None or not is_float(found[1]):
            return "the targets are no real numbers"
        if found[0].shape != found[1].shape and found[0].numel() != found[1].numel():
            return "outputs and targets differ in shape"
        return "" if float(_finite_rows(drawn(training, LOOKED_AT), -1).std()) > 0 else "the targets do not vary"

    def alter(self, training: Training, where: str | None) -> None:
        values = _finite_rows(drawn(training, LOOKED_AT), -1)
        mean, std = float(values.double().mean()), float(values.double().std())
        training.model.register_forward_hook(
            lambda module, args, output: output * std + mean if is_float(output) else output
        )
        loss_fn = training.loss_fn
        training.loss_fn = lambda output, target: loss_fn(
            (output - mean) / std if is_float(output) else output, (target - mean) / std
        )

    def lines(self, training: Training, where: str | None) -> str:
        values = _finite_rows(drawn(training, LOOKED_AT), -1)
        mean, std = float(values.double().mean()), float(values.double().std())
        return (
            f"mean, std = {mean:.6g}, {std:.6g}  # of the targets\n"
            "model.register_forward_hook(lambda module, args, output: output * std + mean)\n"
            "raw_loss_fn = loss_fn\n"
            "loss_fn = lambda output, target: raw_loss_fn((output - mean) / std, (target - mean) / std)"
        )


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
        return "" if len(first) > 1 and all(rows_of(batch) for batch in first) else _WHOLE_BATCHES

    def alter(self, training: Training, where: str | None) -> None:
        training.batches = Made(training.batches, shuffled)

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
        return _WHOLE_BATCHES
    found = [labels for batch in batches if (labels := classes_of(parts_of(batch)[-1])) is not None]
    if len(found) < len(batches):
        return "the targets are no classes"
    counts = torch.bincount(torch.cat(found))
    counts = counts[counts > 0]
    return "" if len(counts) > 1 and counts.max() > counts.min() else "the classes are equally frequent"


@dataclass(frozen=True, kw_only=True)
class BalanceClasses(Change):
    """Batches in which all classes are equally frequent, drawn with replacement."""

    def why_not(self, training: Training, where: str | None) -> str:
        return why_not_imbalanced(training)

    def alter(self, training: Training, where: str | None) -> None:
        training.batches = Made(training.batches, balanced)

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


@dataclass(frozen=True, kw_only=True)
class LargerBatches(Change):
    """Several batches joined to one, of at least 32 examples."""

    def _count(self, training: Training) -> int:
        rows = rows_of(drawn(training, 1)[0])
        return -(-32 // rows) if rows else 1

    def why_not(self, training: Training, where: str | None) -> str:
        if not rows_of(drawn(training, 1)[0]):
            return _WHOLE_BATCHES
        return "" if self._count(training) > 1 else "batches have 32 examples or more"

    def alter(self, training: Training, where: str | None) -> None:
        count = self._count(training)

        def merged(batches: Iterator[Any]) -> Iterator[Any]:
            while group := list(itertools.islice(batches, count)):
                yield joined(group)

        training.batches = Made(training.batches, merged)

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


def _is_random_transform(transform: Any) -> bool:
    name = type(transform).__name__
    return name.startswith(("Random", "Color", "Auto", "Trivial", "AugMix", "Gaussian", "Elastic"))


_FEW = 4  # random numbers that choose how an example is changed, not which examples are drawn


def _few(result: Any) -> bool:
    return isinstance(result, Tensor) and result.numel() <= _FEW


def _zero(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.zeros_like(function(*args, **kwargs))


def _never(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.full_like(function(*args, **kwargs), 0.999)


def _lowest(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = function(*args, **kwargs)
    low = args[0] if len(args) > 1 and isinstance(args[1], int) else kwargs.get("low", 0)
    return torch.full_like(result, low) if _few(result) else result


def _middle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    low, high = (*args[1:], kwargs.get("from", 0.0), kwargs.get("to", 1.0))[:2]
    return args[0].fill_((low + high) / 2) if _few(args[0]) else function(*args, **kwargs)


_NEUTRAL: dict[str, Replacement] = {
    **dict.fromkeys(("randn", "randn_like", "normal"), _zero),
    **dict.fromkeys(("rand", "rand_like"), _never),
    "randint": _lowest,
    "uniform_": _middle,
}


@dataclass(frozen=True, kw_only=True)
class WithoutAugmentation(Change):
    """Batches without random changes of the examples: no noise, and each random choice the neutral one."""

    def _lines(self, training: Training) -> list[str]:
        found: dict[str, None] = {}

        def note(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = function(*args, **kwargs)
            chooses_examples = name_of_function(function) in ("randint", "uniform_") and not _few(result)
            if not chooses_examples and (line := calling_line_of_user()):
                found[f"# {line.file}:{line.number}: {line.text}"] = None
            return result

        with Replacing(dict.fromkeys(_NEUTRAL, note)):
            draw_another(training)
        return list(found)

    def _transforms(self, training: Training) -> Any:
        dataset = getattr(training.batches, "dataset", None)
        while dataset is not None and not hasattr(dataset, "transform"):
            dataset = getattr(dataset, "dataset", None)
        transform = getattr(dataset, "transform", None)
        return dataset if getattr(transform, "transforms", None) or _is_random_transform(transform) else None

    def why_not(self, training: Training, where: str | None) -> str:
        if self._transforms(training) is not None or self._lines(training):
            return ""
        return "the batches draw no random numbers but those that choose examples"

    def alter(self, training: Training, where: str | None) -> None:
        dataset = self._transforms(training)
        if dataset is not None:
            transform = dataset.transform
            if _is_random_transform(transform):
                dataset.transform = None
            else:
                transform.transforms[:] = [each for each in transform.transforms if not _is_random_transform(each)]
            return
        training.batches = Made(training.batches, _neutral)

    def lines(self, training: Training, where: str | None) -> str:
        if self._transforms(training) is not None:
            return (
                "def is_random(transform):\n"
                '    return type(transform).__name__.startswith(("Random", "Color", "Auto", "Trivial", "AugMix"))\n\n\n'
                "transform = batches.dataset.transform\n"
                "transform.transforms = [each for each in transform.transforms if not is_random(each)]"
            )
        return "\n".join(["# Leave out or weaken the augmentation in these lines:", *self._lines(training)])


def _neutral(batches: Iterator[Any]) -> Iterator[Any]:
    while True:
        with ExitStack() as stack:
            stack.enter_context(Replacing(_NEUTRAL))
            stack.enter_context(mock.patch.object(random, "random", return_value=0.999))
            stack.enter_context(mock.patch.object(random, "randint", lambda low, high: low))
            stack.enter_context(mock.patch.object(random, "uniform", lambda low, high: (low + high) / 2))
            stack.enter_context(mock.patch.object(random, "gauss", lambda mu=0.0, sigma=1.0: mu))
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch
