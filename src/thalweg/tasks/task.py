"""Task and TrainingFunction: the two ways to describe what is trained."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

import torch
from torch import nn

from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks.conversion import Conversion
from thalweg.tasks.data import Batch, Split, Splits
from thalweg.tasks.description import Described, describe_task
from thalweg.tasks.lazy_parameters import initialize, is_lazy
from thalweg.tasks.placement import place_splits
from thalweg.tasks.seeded import seeded
from thalweg.tasks.supervised import Measure, prepared
from thalweg.tasks.user_code import calling_line, line_of, raise_task_errors, task_error

_TORCH_LOSSES = ("torch.nn.functional", "torch._C._nn")
_SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Placeable(Described):
    """The device of a task or of a training function, and the user's line that made it.

    Attributes:
        device: The device as the user wrote it; ``"auto"`` leaves data and models where the user's code makes them.
        made_at: File and line of the user's code that made it, filled in for messages.
    """

    device: str | torch.device = devices.AUTO
    made_at: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.made_at:
            object.__setattr__(self, "made_at", calling_line())
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Task(_Placeable):
    """A model to train: how to make it, its loss, its data and the metric that counts.

    Attributes:
        model: Makes a fresh model. thalweg seeds torch before each call. A class is enough if it needs no arguments.
        loss: Takes (model, batch) and returns the mean loss of the batch, a 0-d tensor. ``supervised`` makes one from a
            loss such as ``torch.nn.functional.cross_entropy``.
        data: Tensors or arrays (inputs, targets), a dict of them, or a dataset, which is split 60/20/20 at random; or
            ``Splits``; or a function that returns one of these; or None for a model that is its own loss. Real numbers
            of arrays and lists get the dtype of the model.
        metric: Takes (model, batch) and returns a mean; lower is better. None means the loss.
        metric_name: Name of the metric in tables and charts, for example ``"cross-entropy"``.
        batch_size: Examples in a batch, >= 1, for data in memory. A DataLoader makes its own batches.
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
    metric_name: str = ""
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
        if any((getattr(data, name) is None) != (data.train is None) for name in ("validation", "test")):
            raise self._error(
                "train, validation and test must all hold data, or none of them",
                "None for one",
                "Settings are chosen on the validation split and evaluated on the test split, so both are needed.",
            )
        return data

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
        if self.metric is None:
            return f"{_SPLIT_WORDS[split]} {self.metric_name or 'loss'}"
        name = self.metric_name or getattr(self.metric, "__name__", "metric").replace("<lambda>", "metric")
        return f"{_SPLIT_WORDS[split]} {'loss' if split == 'train' else name}"

    def batches_per_pass(self, *, full_batch: bool = False) -> int:
        """Return the number of optimizer steps in one pass over the training data.

        Args:
            full_batch: True if a single batch holds all training data.
        """
        train = self.splits.train
        if train is None or full_batch:
            return 1
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

    def measure(self, split: str) -> Measure:
        """Return the function that is measured on a split: the loss on ``"train"``, the metric on the others."""
        return self.loss if split == "train" or self.metric is None else self.metric

    def split(self, name: str) -> Split:
        """Return the data of the split with this name: ``"train"``, ``"validation"`` or ``"test"``."""
        return getattr(self.splits, name)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingFunction(_Placeable):
    """Your own training loop. thalweg passes an optimizer to it, and it reports its progress.

    thalweg calls ``train(make_optimizer, report)`` for each training. The function makes its model and calls
    ``make_optimizer(model)``; parameters instead of the model are enough, except for routed contenders such as
    ``muon+adamw``. It trains, and calls ``report(value)`` as often as it likes, with a value on data that it does not
    train on; lower is better. The last report is the result. ``report(value, train=..., test=...)`` also reports the
    training loss, and a value on data that no choice has seen. thalweg seeds torch before each call.

    A function with an argument named ``device`` is told the device to train on, a ``torch.device``:
    ``train(make_optimizer, report, device)``. Another one trains where it likes.

    Attributes:
        train: The training loop.
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
            raise task_error(
                self.name,
                f"the function must take an argument device to train on {self.device}",
                f"{inspect.signature(self.train)}",
                "Write def train(make_optimizer, report, device).",
                where=self.line,
            )

    def _describe(self) -> str:
        return f"TrainingFunction({self.name!r}{', ' if self.line else ''}{self.line})"

    @property
    def line(self) -> str:
        """The user's line that defines the function, or else that made this object; empty if unknown."""
        return line_of(self.train) or self.made_at

    @property
    def is_told_device(self) -> bool:
        """True if the function has an argument named ``device``."""
        return "device" in inspect.signature(self.train).parameters

    def run(self, make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        """Call the function once, with its device if it takes one; without a certain device, with the CPU."""
        keywords = {"device": self.placed_on or devices.CPU} if self.is_told_device else {}
        self.train(make_optimizer, report, **keywords)

    def measured_as(self, split: str) -> str:
        """Return the name of the measure: ``"training loss"`` on ``"train"``, else ``"reported value"``."""
        return "training loss" if split == "train" else "reported value"
