"""Changes of augmentation: random changes of examples left out."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from thalweg.diagnosis.changes.parts.batches import (
    derived_batches,
    draw_another,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import (
    Replacement,
    Replacing,
    calling_line_of_user,
    name_of_function,
)
from thalweg.tasks.training import Training


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
        matches: dict[str, None] = {}

        def note(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = function(*args, **kwargs)
            chooses_examples = name_of_function(function) in ("randint", "uniform_") and not _few(result)
            if not chooses_examples and (line := calling_line_of_user()):
                matches[f"# {line.file}:{line.number}: {line.text}"] = None
            return result

        with Replacing(dict.fromkeys(_NEUTRAL, note)):
            draw_another(training)
        return list(matches)

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
        training.batches = derived_batches(training.batches, _neutral)

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
