"""TrainingFunction: a training loop of the user's, which gets an optimizer and reports its progress."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, ClassVar, NamedTuple

import torch

from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks.measurement import Measured
from thalweg.tasks.placeable import Placeable
from thalweg.tasks.user_code import line_of, task_error


class _IdleCall(NamedTuple):
    """A kind of function whose body a call does not run.

    Attributes:
        is_kind: Return True for a function of this kind.
        returned: The type that a call returns.
        words: The kind in words.
        remedy: What to write instead.
    """

    is_kind: Callable[[Any], bool]
    returned: type
    words: str
    remedy: str


_NO_ASYNC = "Write def instead of async def; asyncio.run(...) inside of it waits for what must be awaited."
_NO_YIELD = "Remove the yield: report(value) tells the progress."
_IDLE_CALLS = (
    _IdleCall(inspect.iscoroutinefunction, CoroutineType, "an async function", _NO_ASYNC),
    _IdleCall(inspect.isasyncgenfunction, AsyncGeneratorType, "an async generator function", _NO_ASYNC),
    _IdleCall(inspect.isgeneratorfunction, GeneratorType, "a generator function, since it has a yield", _NO_YIELD),
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingFunction(Placeable, Measured):
    """Your own training loop. thalweg passes an optimizer to it, and it reports its progress.

    thalweg calls ``train(make_optimizer, report)`` for each training. The function makes its model and calls
    ``make_optimizer(model)``; parameters instead of the model are enough, except for routed contenders such as
    ``muon+adamw``. It trains, and calls ``report(value)`` as often as it likes, with a value on data that it does not
    train on. The last report is the result. thalweg seeds torch before each call.

    Lower values are better. ``report(accuracy, maximize=True, metric_name="accuracy")`` says that higher ones are, and
    what the value is; so do the attributes of these names. ``report(value, train=..., test=...)`` also reports the
    training loss, and a value on data that no choice has seen. Any other keyword is a number to record: it is shown and
    decides nothing, as in ``report(loss, accuracy=0.93)``. A value is a number, or a tensor with one element.

    ``make_optimizer`` also takes groups of parameters, whose learning rates are ratios; ``name="d"`` for one of several
    optimizers, each tuned; and ``scheduler=True, steps=1000``, with which it returns an optimizer and a scheduler.
    Further arguments of the function are tuned if their defaults are ``thalweg.choice(...)``, ``thalweg.range(...)`` or
    ``thalweg.log_range(...)``. All of this is explained in ``docs/choosing/training_loops.md``.

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
        for idle in _IDLE_CALLS:
            if idle.is_kind(self.train) or (callable(self.train) and idle.is_kind(type(self.train).__call__)):
                raise self._idle_error(idle)
        if self.device != devices.AUTO and not self.is_told_device:
            raise task_error(
                self.name,
                f"the function must take an argument device to train on {self.device}",
                f"{inspect.signature(self.train)}",
                "Write def train(make_optimizer, report, device).",
                where=self.line,
            )
        self._check_measured(self.name)

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
        returned = self.train(make_optimizer, report, **keywords)
        for idle in _IDLE_CALLS:  # a lambda or a decorator does not show before what it calls
            if isinstance(returned, idle.returned):
                if isinstance(returned, CoroutineType):
                    returned.close()  # Python would warn that nobody awaits it
                raise self._idle_error(idle)

    def _idle_error(self, idle: _IdleCall) -> TaskError:
        condition = "a training function must train when it is called"
        return task_error(self.name, condition, idle.words, idle.remedy, where=self.line)

    def measured_as(self, split: str) -> str:
        """Return the name of the measure: ``"training loss"`` on ``"train"``, else the name of the reported value."""
        return "training loss" if split == "train" else self.metric_name or "reported value"
