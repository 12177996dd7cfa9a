"""Task: what is to be trained, as its owner writes it down."""

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thalweg.errors import TaskError, ThalwegError
from thalweg.tasks.data import Batch, Split, Splits, Tensors, check_split, split_at_random
from thalweg.tasks.seeded import seeded

Measure = Callable[[nn.Module, Batch], Tensor]


# `<string>` is the `__init__` that a dataclass makes.
_NOT_THE_USERS = ("site-packages", "dist-packages", "<frozen", "<string>", str(Path(__file__).parents[1]))
LEAST_TO_SPLIT = 5
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Turn what a user's code raises into a TaskError that says which part of the task raised it."""
    try:
        yield
    except ThalwegError:
        raise
    except Exception as error:
        raise blamed(what, error) from error


def blamed(what: str, error: BaseException) -> TaskError:
    """The TaskError that says what had to hold, what was raised instead, and at which line of the user's."""
    return TaskError(f"{what}, got {type(error).__name__}: {str(error).rstrip('.')}{_where(error)}.")


def _where(error: BaseException) -> str:
    """The innermost line of the user's own code that an error went through; nothing if it went through none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THE_USERS)]
    return f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""


def supervised(loss: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """Make a loss of (output, target) into one of (model, batch): the last of the batch is the target."""

    def measure(model: nn.Module, batch: Batch) -> Tensor:
        *inputs, target = batch
        return loss(model(*inputs), target)

    return measure


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A model to be trained: how to make it, its loss, its data and the metric that counts.

    model        makes a fresh model; thalweg seeds torch before each call
    loss         (model, batch) -> mean loss of the batch, a 0-d tensor; `supervised` makes one of F.cross_entropy
    data         a tuple of tensors (inputs, targets), split 60/20/20 at random; or `Splits`; or a function that
                 returns either; or None for a model that is its own loss
    metric       (model, batch) -> a mean, lower is better; the loss unless given
    batch_size   examples in a batch, of data held in memory (a DataLoader makes its own)
    passes       how often the training data are seen; without data, the number of steps
    optimum      the least training loss there is, where it is known. Settings are then chosen, and contenders judged,
                 by the training loss: the question is how near they come.
    roles        what parameters are for, by name, where the model does not tell a contender such as `muon+adamw`; see
                 `thalweg.optim.route`

    Raises TaskError when a part is missing or of the wrong kind.
    """

    model: Callable[[], nn.Module]
    loss: Measure
    data: Splits | Tensors | Callable[[], Splits | Tensors] | None = None
    metric: Measure | None = None
    metric_name: str = ""
    batch_size: int = 32
    passes: int = 20
    optimum: float | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    name: str = "task"
    about: str = ""
    # Filled by the loader with the text a task was read from: an edited file is another task.
    source: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for part in ("model", "loss"):
            if not callable(getattr(self, part)):
                raise TaskError(f"{self.name}: {part} must be a function, got {getattr(self, part)!r:.80}.")
        if isinstance(self.model, nn.Module):
            raise TaskError(
                f"{self.name}: model must be a function that makes a fresh model, got a {type(self.model).__name__}. "
                "Each training needs its own: pass the class, or lambda: ..."
            )
        if isinstance(self.loss, nn.Module) or getattr(self.loss, "__module__", "") == "torch.nn.functional":
            raise TaskError(
                f"{self.name}: loss must take (model, batch), got {getattr(self.loss, '__name__', self.loss)}, which "
                "takes (output, target). Wrap it: thalweg.supervised(...)."
            )
        for part in ("batch_size", "passes"):
            value = getattr(self, part)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TaskError(f"{self.name}: {part} must be a whole number, 1 or more, got {value!r}.")

    @cached_property
    def splits(self) -> Splits:
        """The data, read when first needed."""
        with seeded(0), blamed_on(f"{self.name}: data must be readable"):
            data = self.data() if callable(self.data) else self.data
        if data is None:
            return Splits(None, None, None)
        if isinstance(data, tuple):
            check_split(self.name, "whole", data)
            if len(data[0]) < LEAST_TO_SPLIT:
                raise TaskError(
                    f"{self.name}: at least {LEAST_TO_SPLIT} examples are needed to split 60/20/20, "
                    f"got {len(data[0])}. Give thalweg.Splits."
                )
            data = split_at_random(data)
        if not isinstance(data, Splits):
            raise TaskError(
                f"{self.name}: data must be a tuple of tensors or Splits, got {type(data).__name__}. "
                "Three loaders go into thalweg.Splits(train, validation, test)."
            )
        for name in ("train", "validation", "test"):
            check_split(self.name, name, getattr(data, name))
        if any((getattr(data, name) is None) != (data.train is None) for name in ("validation", "test")):
            raise TaskError(
                f"{self.name}: train, validation and test must all hold data, or none of them, got None for one. "
                "Without a test of its own, what is judged is what was chosen by."
            )
        return data

    @property
    def judged_on(self) -> str:
        """The split whose measure counts in the end."""
        return "test" if self.optimum is None else "train"

    @property
    def selected_on(self) -> str:
        """The split whose measure chooses among settings."""
        return "validation" if self.optimum is None else "train"

    def measured_as(self, split: str) -> str:
        """What is measured on a split, in words: `test cross-entropy`."""
        if self.metric is None:
            return f"{_WORDS[split]} {self.metric_name or 'loss'}"
        name = self.metric_name or getattr(self.metric, "__name__", "metric").replace("<lambda>", "metric")
        return f"{_WORDS[split]} {'loss' if split == 'train' else name}"

    def batches_per_pass(self, *, full_batch: bool = False) -> int:
        """Optimizer steps in one pass over the training data."""
        train = self.splits.train
        if train is None or full_batch:
            return 1
        if isinstance(train, tuple):
            return math.ceil(len(train[0]) / self.batch_size)
        return len(train)  # type: ignore[arg-type]

    def make_model(self, seed: int) -> nn.Module:
        """A fresh model, the same for the same seed; random states are left as they were."""
        with seeded(seed), blamed_on(f"{self.name}: the model must be makeable"):
            model = self.model()
        if not isinstance(model, nn.Module):
            raise TaskError(f"{self.name}: model must return an nn.Module, got {type(model).__name__}.")
        if not any(param.requires_grad for param in model.parameters()):
            raise TaskError(f"{self.name}: the model must have a parameter to train, got none.")
        return model

    def measure(self, split: str) -> Measure:
        """What is measured on a split: the loss where training is measured, else the metric."""
        return self.loss if split == "train" or self.metric is None else self.metric

    def split(self, name: str) -> Split:
        """The data of the split of this name."""
        return getattr(self.splits, name)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFunction:
    """A training loop of one's own: thalweg gives it an optimizer, and it reports how it fares.

    `train(make_optimizer, report)` makes its model, calls `make_optimizer(model)` (parameters are enough for all but
    routed contenders such as `muon+adamw`), trains, and calls `report(value)` as often as it likes; `value` is what
    counts, lower is better, on data not trained on. The last report is the result. `report(value, train=..., test=...)`
    tells the training loss, and a value on data that no choice has seen. torch is seeded before each call: what is
    random in `train` is the same for the same seed.
    """

    train: Callable[[Callable[..., torch.optim.Optimizer], Callable[..., None]], Any]
    name: str = "train"
    about: str = ""
    source: str = field(default="", repr=False)
    # What a comparison asks of every task; a function's data and model are out of sight.
    optimum: ClassVar[None] = None
    judged_on: ClassVar[str] = "test"
    selected_on: ClassVar[str] = "validation"

    def measured_as(self, split: str) -> str:
        """What is measured, in words."""
        return "training loss" if split == "train" else "reported value"
