"""Call sites: the place and the text of a call in the user's code."""

import ast
import linecache
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

import torch

_PACKAGES = tuple(str(Path(file).parent) for file in (torch.__file__, Path(__file__).parents[2] / "__init__.py"))


@dataclass(frozen=True)
class CallSite:
    """A call in the user's code.

    Attributes:
        line: File and line; empty if the code has no file.
        argument: Python text of the first argument; empty if unknown.
        model: Python text of the argument ``model=`` beside it; empty if there is none, or unknown.
    """

    line: str
    argument: str
    model: str = ""

    @classmethod
    def of_caller(cls) -> "CallSite":
        """Return the place where the function was called that calls this one."""
        frame = sys._getframe(2)
        return cls(_place(frame), *_arguments(frame))

    @property
    def place(self) -> str:
        """The line in parentheses, to follow a name in a message."""
        return f" ({self.line})" if self.line else ""


def line_of_user() -> str:
    """Return file and line of the innermost code on the stack that is neither thalweg's nor torch's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    return "" if frame is None else _place(frame)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _arguments(frame: FrameType) -> tuple[str, str]:
    """Return the texts of the first argument, and of ``model=`` beside it, of the call that a frame executes now."""
    position = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if position is None or None in position:
        return "", ""
    first, last, start, end = position
    assert first is not None
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)[first - 1 : last]
    if not lines:
        return "", ""
    encoded = [line.encode() for line in lines]  # columns are counted in bytes
    encoded[-1] = encoded[-1][:end]
    encoded[0] = encoded[0][start:]
    try:
        call = ast.parse(b"".join(encoded).decode(), mode="eval").body
    except (SyntaxError, ValueError):  # the file was edited since it was imported
        return "", ""
    if not isinstance(call, ast.Call):
        return "", ""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "model"]
    arguments = [*call.args[:1], *named]
    if not arguments or isinstance(arguments[0], ast.Starred):
        return "", ""
    texts = [ast.unparse(argument) for argument in arguments]
    return texts[0], "".join(texts[1:])
