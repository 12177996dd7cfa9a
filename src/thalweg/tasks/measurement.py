"""Measurement: what a task measures, in which direction it is better, and which measurement of a training counts."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch

from thalweg.tasks.user_code import calling_line, task_error

RESULTS = ("last", "best")
SCALES = ("log", "linear")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Measured:
    """The measured quantity of a task or of a training function.

    Attributes:
        metric_name: Name of the quantity, for example ``"accuracy"``.
        maximize: True if higher is better. None leaves it to the reports of a training function; else lower is better.
        result: The measurement of a training that counts: the ``"last"`` one or that with the ``"best"`` validation.
        scale: ``"log"`` compares values by their ratios, ``"linear"`` by their differences. None selects ``"log"`` for
            a loss, and ``"linear"`` for a task's metric and for a value that is maximized.
    """

    metric_name: str = ""
    maximize: bool | None = None
    result: Literal["last", "best"] = "last"
    scale: Literal["log", "linear"] | None = None

    def _check_measured(self, name: str) -> None:
        """Raise TaskError if a part has the wrong type."""
        if not isinstance(self.metric_name, str):
            raise task_error(name, "metric_name must be a text", f"{self.metric_name!r:.80}", where=calling_line())
        if self.maximize is not None and not isinstance(self.maximize, bool):
            raise task_error(name, "maximize must be True or False", f"{self.maximize!r:.80}", where=calling_line())
        if self.result not in RESULTS:
            raise task_error(name, "result must be 'last' or 'best'", f"{self.result!r:.80}", where=calling_line())
        if self.scale is not None and self.scale not in SCALES:
            raise task_error(name, "scale must be 'log' or 'linear'", f"{self.scale!r:.80}", where=calling_line())


def as_number(value: Any, what: str) -> float:
    """Return a reported value as a Python float: of a number, or of a tensor or an array with one element.

    Args:
        value: A Python number, a number of numpy, or a tensor on any device or an array with one element.
        what: Name of the value, for the message.

    Raises:
        TaskError: If the value is no single real number. The message names the user's line.

    Example:
        >>> as_number(torch.ones(1, requires_grad=True), "value")
        1.0
    """
    got = ""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            got = f"a tensor of shape {tuple(value.shape)}"
        else:
            value = value.detach().item()
    elif getattr(value, "size", 1) == 1 and hasattr(value, "item"):  # an array or a scalar of numpy
        value = value.item()
    elif hasattr(value, "shape"):
        got = f"an array of shape {tuple(value.shape)}"
    if not got and (isinstance(value, str | bytes | complex) or value is None):
        got = f"{value!r:.80}"
    if not got:
        try:
            return float(value) + 0.0  # never -0.0
        except (TypeError, ValueError, OverflowError):
            got = f"{type(value).__name__} {value!r:.80}"
    advice = "Report a float, such as a mean."
    raise task_error("report", f"{what} must be a single number", got, advice, where=calling_line())


def with_article(name: str) -> str:
    """Return a name with its indefinite article.

    Example:
        >>> with_article("test loss"), with_article("accuracy"), with_article("F1 score"), with_article("f1")
        ('a test loss', 'an accuracy', 'an F1 score', 'an f1')
    """
    first = re.split(r"[^A-Za-z]", name, maxsplit=1)[0]
    is_spelled = (first.isupper() and len(first) < 5) or len(first) == 1  # an MSE and an f1, but a map
    letters = "AEFHILMNORSXaefhilmnorsx" if is_spelled else "aeiouAEIOU"
    return f"{'an' if first and first[0] in letters else 'a'} {name}"


def best_index(values: list[float], *, maximize: bool) -> int:
    """Return the index of the best finite value, the first of equal ones; the last index if none is finite."""
    costs = [((-value if maximize else value), k) for k, value in enumerate(values) if math.isfinite(value)]
    return min(costs)[1] if costs else len(values) - 1
