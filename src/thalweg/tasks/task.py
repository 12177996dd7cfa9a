"""Task and TrainingFunction: the two ways to describe what is trained."""

import inspect
import math
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from thalweg.engine.core import devices
from thalweg.errors import TaskError, ThalwegError
from thalweg.tasks.computation import Computed
from thalweg.tasks.data import Batch, Split, Splits, Tensors, check_split, completed, split_at_random
from thalweg.tasks.measurement import Measured
from thalweg.tasks.placement import place_splits
from thalweg.tasks.seeded import seeded

Measure = Callable[[nn.Module, Batch], Tensor]

# `<string>` is the `__init__` that a dataclass generates.
_LIBRARY_PATHS = (
    "site-packages",
    "dist-packages",
    "<frozen",
    "<string>",
    sysconfig.get_path("stdlib"),
    str(Path(__file__).parents[1]),
)
MIN_EXAMPLES_TO_SPLIT = 5
_SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@contextmanager
def raise_task_errors(condition: str) -> Iterator[None]:
    """Turn an error of the user's code in this ``with`` block into a TaskError.

    Args:
        condition: What must hold, as the beginning of the message: ``"digits: the task must train"``.
    """
    try:
        yield
    except ThalwegError:
        raise
    except (Exception, SystemExit) as error:
        raise as_task_error(condition, error) from error


def as_task_error(condition: str, error: BaseException) -> TaskError:
    """Return a TaskError with the condition, the original error and the line of the user's code."""
    return TaskError(f"{condition}, got {type(error).__name__}: {str(error).rstrip('.')}{location_of(error)}.")


def location_of(error: BaseException) -> str:
    """Return the innermost line of the user's code in the traceback; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [frame for frame in frames if is_users_file(frame.filename)]
    return f" (at {user_frames[-1].filename}:{user_frames[-1].lineno})" if user_frames else ""


def is_users_file(filename: str) -> bool:
    """Return True for a file of the user's code, False for one of thalweg or of another library."""
    return not any(part in filename for part in _LIBRARY_PATHS)


def supervised(loss: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """Turn a loss of (output, target) into a loss of (model, batch), as a Task needs it.

    Args:
        loss: Takes the model's output and the target, and returns the mean loss, a 0-d tensor.

    Returns:
        A function of the model and a batch. The last tensor of the batch is the target; the others are the inputs.

    Example:
        >>> import torch
        >>> from thalweg.tasks import supervised
        >>> loss = supervised(torch.nn.functional.mse_loss)
        >>> loss(torch.nn.Identity(), (torch.ones(4), torch.zeros(4)))
        tensor(1.)
    """

    def measure(model: nn.Module, batch: Batch) -> Tensor:
        *inputs, target = batch
        return loss(model(*inputs), target)

    return measure


@dataclass(frozen=True, kw_only=True, eq=False)
class _Placeable:
    """The device of a task or of a training function.

    Attributes:
        device: The device as the user wrote it; ``"auto"`` leaves data and models where the user's code makes them.
    """

    device: str | torch.device = devices.AUTO

    def __post_init__(self) -> None:
        if self.device != devices.AUTO:
            object.__setattr__(self, "device", str(devices.parse(self.device)))

    @property
    def placed_on(self) -> torch.device | None:
        """The device of data and models; None if they lie where the user's code makes them.

        Raises:
            DeviceError: If there is no such device here.
        """
        return None if self.device == devices.AUTO else devices.check(self.device)

    @cached_property
    def _unplaced(self) -> Self:
        """The same task on no certain device, which reads the data for all devices."""
        return self if self.device == devices.AUTO else replace(self, device=devices.AUTO)

    @cached_property
    def _on_devices(self) -> WeakValueDictionary[str, Self]:
        return WeakValueDictionary()

    def on(self, device: str | torch.device) -> Self:
        """Return the task with its data and its models on a device.

        Data are read once, and moved once to each device as long as a task uses them there.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or ``"auto"`` to leave everything where it is made.

        Raises:
            DeviceError: If this is no device.
        """
        if device == devices.AUTO:
            return self._unplaced
        key, known = str(devices.parse(device)), self._unplaced._on_devices
        placed = known.get(key)
        if placed is None:
            placed = known[key] = replace(self, device=key)
            placed.__dict__["_unplaced"] = self._unplaced
        return placed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what lies on a device: each process places its own."""
        left_out = {"_on_devices"} if self.device == devices.AUTO else {"_on_devices", "splits"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(_Placeable, Measured, Computed):
    """A model to train: how to make it, its loss, its data and the metric that counts.

    Attributes:
        model: Makes a fresh model. thalweg seeds torch before each call. A class is enough if it needs no arguments.
        loss: Takes (model, batch) and returns the mean loss of the batch, a 0-d tensor. ``supervised`` makes one from a
            loss such as ``torch.nn.functional.cross_entropy``.
        data: A tuple of tensors (inputs, targets), which is split 60/20/20 at random; or ``Splits``; or a function that
            returns either; or None for a model that is its own loss. Without a test split the validation split also
            evaluates; without a validation split the training split also chooses. A caution says so.
        metric: Takes (model, batch) and returns a mean. None means the loss.
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
    data: Splits | Tensors | Callable[[], Splits | Tensors] | None = None
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
                raise TaskError(f"{self.name}: {part} must be a function, got {getattr(self, part)!r:.80}.")
        if isinstance(self.model, nn.Module):
            raise TaskError(
                f"{self.name}: model must be a function that makes a fresh model, got a {type(self.model).__name__}. "
                "Each training needs a model of its own: pass the class, or lambda: ..."
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
        self._check_measured(self.name)
        self._check_computed(self.name)
        if self.maximize and (self.metric is None or self.optimum is not None):
            got = "no metric" if self.metric is None else "an optimum, for which the training loss decides"
            raise TaskError(f"{self.name}: maximize=True needs a metric that decides, got {got}. Pass metric=...")
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not callable(metric):
                raise TaskError(f"{self.name}: metrics must map names to functions, got {name!r}: {metric!r:.80}.")

    @cached_property
    def splits(self) -> Splits:
        """The data as training, validation and test split, read at first use. Raises TaskError if they are unusable."""
        if self.placed_on is not None:
            return place_splits(self._unplaced.splits, self.placed_on)
        with seeded(0), raise_task_errors(f"{self.name}: data must be readable"):
            data = self.data() if callable(self.data) else self.data
        if data is None:
            return Splits(None, None, None)
        if isinstance(data, tuple):
            check_split(self.name, "whole", data)
            if len(data[0]) < MIN_EXAMPLES_TO_SPLIT:
                raise TaskError(
                    f"{self.name}: at least {MIN_EXAMPLES_TO_SPLIT} examples are needed to split 60/20/20, "
                    f"got {len(data[0])}. Pass thalweg.Splits."
                )
            data = split_at_random(data)
        if not isinstance(data, Splits):
            raise TaskError(
                f"{self.name}: data must be a tuple of tensors or Splits, got {type(data).__name__}. "
                "Pass three loaders as thalweg.Splits(train, validation, test)."
            )
        for name in ("train", "validation", "test"):
            check_split(self.name, name, getattr(data, name))
        return completed(self.name, data)

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
        with seeded(seed), raise_task_errors(f"{self.name}: the model function must run without an error"):
            model = self.model()
        if not isinstance(model, nn.Module):
            raise TaskError(f"{self.name}: model must return an nn.Module, got {type(model).__name__}.")
        if not any(param.requires_grad for param in model.parameters()):
            raise TaskError(f"{self.name}: the model must have a parameter to train, got none.")
        return model if self.placed_on is None else devices.place(model, self.placed_on)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFunction(_Placeable, Measured):
    """Your own training loop. thalweg passes an optimizer to it, and it reports its progress.

    thalweg calls ``train(make_optimizer, report)`` for each training. The function makes its model and calls
    ``make_optimizer(model)``; parameters instead of the model are enough, except for routed contenders such as
    ``muon+adamw``. It trains, and calls ``report(value)`` as often as it likes, with a value on data that it does not
    train on. The last report is the result. thalweg seeds torch before each call.

    Lower values are better. ``report(accuracy, maximize=True, metric_name="accuracy")`` says that higher ones are, and
    what the value is; so do the attributes of these names. ``report(value, train=..., test=...)`` also reports the
    training loss, and a value on data that no choice has seen. Any other keyword is a number to record, which decides
    nothing: ``report(loss, accuracy=0.93)``. A value is a number, or a tensor with one element.

    ``make_optimizer`` also takes groups of parameters, whose learning rates are ratios; ``name="d"`` for one of several
    optimizers, each tuned; and ``scheduler=True, steps=1000``, with which it returns an optimizer and a scheduler.
    Further arguments of the function are tuned if their defaults are ``thalweg.choice(...)``, ``thalweg.range(...)`` or
    ``thalweg.log_range(...)``. All of this is explained in ``docs/training_loops.md``.

    A function with an argument named ``device`` is told the device to train on, a ``torch.device``:
    ``train(make_optimizer, report, device)``. Another one trains where it likes.

    Attributes:
        train: The training loop.
        metric_name: Name of the reported value, for example ``"accuracy"``.
        maximize: True if higher values are better, False if lower ones are. None leaves it to ``report``.
        result: The report that counts: the ``"last"`` one, or the one with the ``"best"`` value.
        scale: ``"log"`` compares values by their ratios, ``"linear"`` by their differences. None selects ``"log"`` for
            values that are minimized and all above zero, else ``"linear"``.
        device: Device to train on, as of a ``Task``. Only a function that is told the device may have one. The default
            ``"auto"`` takes an accelerator if there is one, and if the function is told the device.
        name: Name in tables, charts and messages.
        about: A short description for the report.
        source: Text of the file that defines the function, filled in by ``load``. An edited file is another task.
        optimum: None; the optimum of a training function is unknown.
        selected_on: ``"validation"``: the reported value chooses among settings.
        judged_on: ``"test"``: the value reported as ``test``, or else the reported value, evaluates the contenders.

    Example:
        >>> import torch
        >>> import thalweg
        >>> def train(make_optimizer, report):
        ...     weight = torch.nn.Parameter(torch.ones(1))
        ...     optimizer = make_optimizer([weight])
        ...     for _ in range(10):
        ...         optimizer.zero_grad()
        ...         weight.square().sum().backward()
        ...         optimizer.step()
        ...     report(weight.square().item())
        >>> task = thalweg.tasks.TrainingFunction(train=train, name="a parabola")
        >>> task.measured_as("test")
        'reported value'
    """

    train: Callable[..., Any]
    name: str = "train"
    about: str = ""
    source: str = field(default="", repr=False)
    # A comparison reads these of a Task too.
    optimum: ClassVar[None] = None
    judged_on: ClassVar[str] = "test"
    selected_on: ClassVar[str] = "validation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device != devices.AUTO and not self.is_told_device:
            raise TaskError(
                f"{self.name}: the function must take an argument device to train on {self.device}, got "
                f"{inspect.signature(self.train)}. Write def train(make_optimizer, report, device)."
            )
        self._check_measured(self.name)

    @property
    def is_told_device(self) -> bool:
        """True if the function has an argument named ``device``."""
        return "device" in inspect.signature(self.train).parameters

    def run(self, make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        """Call the function once, with its device if it takes one; without a certain device, with the CPU."""
        keywords = {"device": self.placed_on or devices.CPU} if self.is_told_device else {}
        self.train(make_optimizer, report, **keywords)

    def measured_as(self, split: str) -> str:
        """Return the name of the measure: ``"training loss"`` on ``"train"``, else the name of the reported value."""
        return "training loss" if split == "train" else self.metric_name or "reported value"
