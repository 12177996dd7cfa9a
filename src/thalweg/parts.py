"""Parts: a result is made of parts. A part that raises becomes a note with its error, and the others stand.

The JSON, the page and the terminal make each of their parts through one ``Parts``. So nothing that is wrong with one
number can hide all others, and the exit code of a command tells that something is missing.
"""

import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thalweg.errors import ThalwegError

MAX_ERROR = 500  # characters of an error in a note

_T = TypeVar("_T")
_D = TypeVar("_D")


@dataclass(frozen=True)
class MissingPart:
    """A part of a result that could not be made.

    Attributes:
        name: The part, as the subject of a sentence: ``"the verdict"``.
        error: The error, with the line that raised it unless thalweg raised it on purpose.
        is_bug: True if thalweg did not raise the error on purpose.
    """

    name: str
    error: str
    is_bug: bool

    @property
    def text(self) -> str:
        """The note, as a sentence."""
        report = " This is a bug in thalweg: please report it." if self.is_bug else ""
        return f"{self.name[:1].upper()}{self.name[1:]} could not be made: {self.error}{report}"


class Parts:
    """Makes the parts of a result, each by itself.

    Args:
        find_losses: Returns the parts that the result itself lacks, each with its error. It is called whenever
            ``missing`` is read.

    Example:
        >>> parts = Parts()
        >>> parts.make("the ratio", lambda: 1 / 0, None), parts.make("the sum", lambda: 1 + 1, None)
        (None, 2)
        >>> [part.name for part in parts.missing]
        ['the ratio']
    """

    def __init__(self, find_losses: Callable[[], Iterable[tuple[str, Exception]]] = tuple) -> None:
        self._find_losses = find_losses
        self._failed: list[MissingPart] = []

    @property
    def missing(self) -> list[MissingPart]:
        """The parts that the result lacks, then those that could not be made."""
        losses: list[MissingPart] = []
        try:  # what was found before an error stays
            losses.extend(_missing_part(name, error) for name, error in self._find_losses())
        except Exception as error:
            losses.append(_missing_part("the check of the result", error))
        return losses + [part for part in self._failed if part not in losses]

    def make(self, name: str, function: Callable[[], _T], default: _D) -> _T | _D:
        """Return what a function returns; if it raises, the default, and the part is missing until it can be made.

        Args:
            name: The part, as the subject of a sentence: ``"the verdict"``.
            function: Makes the part.
            default: Stands for a part that is missing.
        """
        try:
            result = function()
        except Exception as error:
            self.add(name, error)
            return default
        self._failed = [part for part in self._failed if part.name != name]
        return result

    def add(self, name: str, error: Exception) -> MissingPart:
        """Note that a part is missing.

        Args:
            name: The part, as the subject of a sentence.
            error: The reason.
        """
        part = _missing_part(name, error)
        if part not in self._failed:
            self._failed.append(part)
        return part


def _missing_part(name: str, error: Exception) -> MissingPart:
    is_bug = not isinstance(error, ThalwegError | OSError)
    text = f"{type(error).__name__}: {error}" if is_bug else str(error)
    text = text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR - 1]}…"
    frames = traceback.extract_tb(error.__traceback__)
    if is_bug and frames:
        text += f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    return MissingPart(name, text if text.endswith(".") else f"{text}.", is_bug)


def finite(value: float) -> float | None:
    """Return a number for JSON and tables; None if it is not finite."""
    return value if math.isfinite(value) else None


def as_plain_json(value: Any) -> Any:
    """Return a value as plain JSON: a number that is not finite is None, an object its text.

    Args:
        value: Numbers, texts, lists and dicts; also of numpy and torch.

    Example:
        >>> as_plain_json({"lr": float("inf"), "betas": (0.9, 0.999)})
        {'lr': None, 'betas': [0.9, 0.999]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return finite(float(value))
    if isinstance(value, Mapping):
        return {str(key): as_plain_json(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [as_plain_json(item) for item in value]
    if callable(getattr(value, "tolist", None)):  # an array or a tensor
        return as_plain_json(value.tolist())
    return str(value)
