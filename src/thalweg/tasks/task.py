"""Task: a model, its loss and its data. A training loop of the user's is a ``TrainingFunction``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks.computation import Computed
from thalweg.tasks.data import Batch, Split, Splits, completed
from thalweg.tasks.data.conversion import Conversion
from thalweg.tasks.data.placement import place_splits
from thalweg.tasks.description import describe_task
from thalweg.tasks.lazy_parameters import initialize, is_lazy
from thalweg.tasks.measurement import Measured
from thalweg.tasks.placeable import Placeable
from thalweg.tasks.reproducibility.seeded import seeded
from thalweg.tasks.supervised import Measure, prepared
from thalweg.tasks.user_code import line_of, raise_task_errors, task_error

_TORCH_LOSSES = ("torch.nn.functional", "torch._C._nn")
_SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Task(Placeable, Measured, Computed):
    """A model to train: how to make it, its loss, its data and the metric that counts.

    Attributes:
        model: Makes a fresh model. thalweg seeds torch before each call. A class is enough if it needs no arguments.
        loss: Takes (model, batch) and returns the mean loss of the batch, a 0-d tensor. ``supervised`` makes one from a
            loss such as ``torch.nn.functional.cross_entropy``.
        data: Tensors or arrays (inputs, targets), a dict of them, or a dataset, which is split 60/20/20 at random; or
            ``Splits``; or a function that returns one of these; or None for a model that is its own loss. Real numbers
            of arrays and lists get the dtype of the model. Without a test split the validation split also evaluates;
            without a validation split the training split also chooses. A caution says so.
        metric: Takes (model, batch) and returns a number. None means the loss. If it is no mean over the examples, as
            F1, AUC and RMSE are none, it is measured on a whole split at once; the batches of a DataLoader are joined.
        metric_name: Name of the metric in tables and charts, for example ``"accuracy"``.
        maximize: True if a higher metric is better. A loss is always minimized.
        metrics: Further metrics by name. They are measured at the end of each training, recorded and shown, and decide
            nothing.
        result: The measurement of a training that counts: that at its end (``"last"``), or the one with the ``"best"``
            validation among 4 to 16 evaluations on the way.
        scale: ``"log"`` compares values by their ratios, ``"linear"`` by their differences. None selects ``"log"`` for
            losses, and ``"linear"`` for a metric. Values of zero or below are always compared by differences.
        batch_size: Examples in a batch, >= 1, for data in memory. A DataLoader makes its own batches.
        accumulate: Batches whose gradients are averaged in one optimizer step, >= 1.
        precision: ``"bfloat16"`` or ``"float16"`` trains and evaluates under autocast, float16 with a GradScaler.
        needs_grad: True if the loss or the metric differentiates the model's output. None lets the first evaluation of
            each decide whether evaluations use autograd.
        passes: Number of passes over the training data, >= 1. Without data, the number of optimizer steps.
        optimum: The lowest possible training loss, if it is known. Then the training loss chooses the settings and
            evaluates the contenders: the question is how near they come to the optimum.
        roles: Roles of parameters by name, for contenders such as ``muon+adamw``, if the model does not show them; see
            :func:`thalweg.optim.route`.
        device: Device to train on: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"``, ``"mps"``. Data and models are moved
            to it; a model is made on the CPU first, so that a seed gives the same weights on every device. The default
            ``"auto"`` takes an accelerator if a comparison measures that it is faster.
        name: Name of the task in tables, charts and messages.
        about: A short description for the report.
        source: Text of the file that defines the task, filled in by ``load``. An edited file is another task.

    Raises:
        TaskError: If a part is missing or has the wrong type. The data are checked when they are first read.
        DeviceError: If ``device`` is no device. One that this machine lacks is an error when it is used.

    Example:
        >>> import torch
        >>> import thalweg
        >>> inputs = torch.rand(100, 1)
        >>> task = thalweg.Task(
        ...     model=lambda: torch.nn.Linear(1, 1),
        ...     loss=thalweg.supervised(torch.nn.functional.mse_loss),
        ...     data=(inputs, 3 * inputs),
        ...     passes=10,
        ...     name="a line",
        ... )
        >>> len(task.splits.train[0]), task.measured_as("test")
        (60, 'test loss')
    """

    model: Callable[[], nn.Module]
    loss: Measure
    data: Any = None  # see above; `Conversion` reads it
    metric: Measure | None = None
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    batch_size: int = 32
    passes: int = 20
    optimum: float | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    name: str = "task"
    about: str = ""
    source: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("model", "loss"):
            if not callable(getattr(self, part)):
                raise self._error(f"{part} must be a function", f"{getattr(self, part)!r:.80}")
        if isinstance(self.model, nn.Module):
            raise self._error(
                "model must be a function that makes a fresh model",
                f"a {type(self.model).__name__}",
                "Each training needs a model of its own: pass the class, or lambda: ...",
            )
        if isinstance(self.loss, nn.Module) or getattr(self.loss, "__module__", "") in _TORCH_LOSSES:
            raise self._error(
                "loss must take (model, batch)",
                f"{getattr(self.loss, '__name__', self.loss)}, which takes (output, target)",
                "Wrap it: thalweg.supervised(...).",
            )
        for part in ("batch_size", "passes"):
            value = getattr(self, part)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._error(f"{part} must be a whole number, 1 or more", repr(value))
        self._check_measured(self.name)
        self._check_computed(self.name)
        if self.maximize and (self.metric is None or self.optimum is not None):
            got = "no metric" if self.metric is None else "an optimum, for which the training loss decides"
            raise self._error("maximize=True needs a metric that decides", got, "Pass metric=...")
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not callable(metric):
                raise self._error("metrics must map names to functions", f"{name!r}: {metric!r:.80}")

    def _describe(self) -> str:
        return describe_task(self)

    @cached_property
    def splits(self) -> Splits:
        """The data as training, validation and test split, read at first use. Raises TaskError if they are unusable."""
        if self.placed_on is not None:
            return place_splits(self._unplaced.splits, self.placed_on)
        line = self.line_of("data")
        with seeded(0), raise_task_errors(f"{self.name}: data must be readable", line):
            data = self.data() if callable(self.data) else self.data
            if data is None:
                return Splits(None, None, None)
            data = Conversion(self.name, line, self.batch_size, self._float_dtype).splits(data)
        data = Splits(*(prepared(self.loss, part) if isinstance(part, tuple) else part for part in vars(data).values()))
        return completed(self.name, data, line)

    @property
    def judged_on(self) -> str:
        """The split whose measure evaluates the contenders: ``"test"``, or ``"train"`` if the optimum is known."""
        return "test" if self.optimum is None else "train"

    @property
    def selected_on(self) -> str:
        """The split whose measure chooses among settings: ``"validation"``, or ``"train"`` if the optimum is known."""
        return "validation" if self.optimum is None else "train"

    def measured_as(self, split: str) -> str:
        """Return the name of the measure on a split: ``"test cross-entropy"``.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.
        """
        words = _SPLIT_WORDS[self.source_of(split)]
        if self.metric is None:
            return f"{words} {self.metric_name or 'loss'}"
        name = self.metric_name or getattr(self.metric, "__name__", "metric").replace("<lambda>", "metric")
        return f"{words} {'loss' if split == 'train' else name}"

    def source_of(self, split: str) -> str:
        """Return the split whose data are measured as this split: another one if it has no data of its own.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.
        """
        splits = self._unplaced.splits
        if splits.train is None:
            return split
        return next(name for name in _SPLIT_WORDS if getattr(splits, name) is getattr(splits, split))

    def batches_per_pass(self, *, full_batch: bool = False) -> int:
        """Return the number of optimizer steps in one pass over the training data.

        Args:
            full_batch: True if a single batch holds all training data.
        """
        if self.splits.train is None or full_batch:
            return 1
        return math.ceil(self.num_batches / self.accumulate)

    @property
    def num_batches(self) -> int:
        """The number of batches in one pass over the training data, which must exist."""
        train = self.splits.train
        if isinstance(train, tuple):
            return math.ceil(len(train[0]) / self.batch_size)
        return len(train)  # type: ignore[arg-type]  # check_split has made sure of a length

    def make_model(self, seed: int) -> nn.Module:
        """Make a fresh model on the device of the task, the same for the same seed on every device.

        The user's function makes it where it likes, and it is moved. Random states outside stay as they are.

        Args:
            seed: Seed of torch, numpy and Python's ``random`` while the model is made.

        Returns:
            The model.

        Raises:
            TaskError: If the user's function fails, returns no module, or the module has nothing to train.
        """
        model = self._new_model(seed)
        line = self.line_of("model")
        if not isinstance(model, nn.Module):
            raise self._error("model must return an nn.Module", type(model).__name__, where=line)
        if not any(param.requires_grad for param in model.parameters()):
            raise self._error(
                "the model must have a parameter to train",
                "none" if not list(model.parameters()) else "frozen ones alone",
                "Set requires_grad of those to train." if list(model.parameters()) else "",
                where=line,
            )
        return model if self.placed_on is None else devices.place(model, self.placed_on)

    def _new_model(self, seed: int) -> nn.Module:
        """Return what the user's function makes; parameters without a shape get theirs from a first batch."""
        condition = f"{self.name}: the model function must run without an error"
        with seeded(seed):
            with raise_task_errors(condition, lambda: self.line_of("model")):
                model = self.model()
            if isinstance(model, nn.Module) and is_lazy(model):
                with raise_task_errors(f"{self.name}: the task must train", lambda: self.line_of("loss")):
                    initialize(model, self.loss, self._unplaced.first_batch("train"))
        return model

    def _float_dtype(self) -> torch.dtype:
        """Return the dtype of the model's real parameters, for data that have none of their own."""
        with seeded(0), raise_task_errors(f"{self.name}: the model function must run without an error"):
            model = self.model()
        params = model.parameters() if isinstance(model, nn.Module) else ()
        dtypes = {param.dtype for param in params if param.is_floating_point()}
        return dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()

    def first_batch(self, split: str, size: int | None = None) -> Batch:
        """Return the first examples of a split, in their order: of data in memory ``size``, of a loader a batch.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.
            size: Number of examples. Defaults to the batch size.
        """
        data = self.split(split)
        if data is None:
            return ()
        if isinstance(data, tuple):
            return tuple(tensor[: size or self.batch_size] for tensor in data)
        return next(iter(data))

    def line_of(self, part: str) -> str:
        """Return the user's line that defines a part of the task, or else that of the task; empty if unknown.

        Args:
            part: ``"model"``, ``"loss"``, ``"metric"`` or ``"data"``.
        """
        value = getattr(self, part)
        return (line_of(value) if callable(value) else "") or self.made_at

    def _error(self, condition: str, got: str, remedy: str = "", *, where: str = "") -> TaskError:
        return task_error(self.name, condition, got, remedy, where=where or self.made_at)

    def measure(self, split: str, metric: str = "") -> Measure:
        """Return the function that is measured on a split: the loss on ``"train"``, the metric on the others.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.
            metric: Name of one of the further metrics, which is returned instead.
        """
        if metric:
            return self.metrics[metric]
        return self.loss if split == "train" or self.metric is None else self.metric

    def split(self, name: str) -> Split:
        """Return the data of the split with this name: ``"train"``, ``"validation"`` or ``"test"``."""
        return getattr(self.splits, name)
