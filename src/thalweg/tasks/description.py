"""Descriptions of objects for people, in Python and in notebooks: short, escaped, without tensors."""

import html
from typing import Any

from torch import Tensor, nn

from thalweg.errors import printable
from thalweg.tasks.data import Splits
from thalweg.tasks.user_code import line_of


class Described:
    """A base for objects whose ``repr`` is a description. A notebook shows the same text, escaped."""

    def _describe(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return printable(self._describe(), keep="\n")

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(map(html.escape, repr(self).splitlines()))}</p>"


def describe_task(task: Any) -> str:
    """Return the ``repr`` of a ``Task``: its name, parts and sizes. Data that a function makes are not read."""
    parts = [repr(task.name), f"model={_function_name(task.model)}", f"loss={_function_name(task.loss)}"]
    if task.metric is not None:
        parts.append(f"metric={task.metric_name or _function_name(task.metric)}")
    parts.append(f"data={_describe_data(task.data)}")
    if task.data is not None:
        parts.append(f"batch_size={task.batch_size}")
    parts.append(f"passes={task.passes}")
    if task.optimum is not None:
        parts.append(f"optimum={task.optimum:.7g}")
    if task.device != "auto":
        parts.append(f"device={str(task.device)!r}")
    return f"Task({', '.join(parts)})"


def _function_name(function: Any) -> str:
    """Return the name of a function or class; of a lambda its line."""
    name = getattr(function, "__qualname__", "") or repr(function)
    if name.endswith("<lambda>"):
        line = line_of(function)
        return f"<lambda at {line}>" if line else "<lambda>"
    return name.rpartition("<locals>.")[2]


def _describe_data(data: Any) -> str:
    if data is None:
        return "None"
    if isinstance(data, Splits):
        return " / ".join(map(_describe_data, vars(data).values()))
    if isinstance(data, tuple | list) and data and all(hasattr(part, "shape") for part in data):
        return f"({', '.join(map(_describe_array, data))})"
    if hasattr(data, "shape"):
        return _describe_array(data)
    if isinstance(data, nn.Module) or not callable(data):
        kind = type(data).__name__
        try:
            return f"{kind} of length {len(data)}"
        except TypeError:
            return kind
    return f"{_function_name(data)}()"


def _describe_array(array: Any) -> str:
    dtype = str(array.dtype).removeprefix("torch.") if hasattr(array, "dtype") else type(array).__name__
    kind = "tensor" if isinstance(array, Tensor) else type(array).__name__
    return f"{kind} {tuple(array.shape)} {dtype}"
