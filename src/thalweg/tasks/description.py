"""Descriptions of tasks for people: one line that shows no tensor and reads no data."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from thalweg.tasks.data import Splits
from thalweg.tasks.user_code import line_of

if TYPE_CHECKING:
    from thalweg.tasks.task import Task


def describe_task(task: "Task") -> str:
    """Return the ``repr`` of a task: its name, parts and sizes. Data that a function makes are not read."""
    parts = [repr(task.name), f"model={_name_of(task.model)}", f"loss={_name_of(task.loss)}"]
    if task.metric is not None:
        parts.append(f"metric={task.metric_name or _name_of(task.metric)}")
    parts.append(f"data={_describe_data(task.data)}")
    if task.data is not None:
        parts.append(f"batch_size={task.batch_size}")
    parts.append(f"passes={task.passes}")
    if task.optimum is not None:
        parts.append(f"optimum={task.optimum:.7g}")
    if task.device != "auto":
        parts.append(f"device={str(task.device)!r}")
    return f"Task({', '.join(parts)})"


def _name_of(function: Any) -> str:
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
    return f"{_name_of(data)}()"


def _describe_array(array: Any) -> str:
    dtype = str(array.dtype).removeprefix("torch.") if hasattr(array, "dtype") else type(array).__name__
    kind = "tensor" if isinstance(array, Tensor) else type(array).__name__
    return f"{kind} {tuple(array.shape)} {dtype}"
