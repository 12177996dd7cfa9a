"""Writers: what a monitor reads, passed on to TensorBoard or to a function."""

from collections.abc import Callable
from typing import Any, Protocol

from thalweg.errors import DiagnosisError, shown


class SummaryWriter(Protocol):
    """An object that writes scalars, such as TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Write a value."""


Write = Callable[[int, dict[str, float]], Any]


def writing(writer: SummaryWriter | Write | None) -> Write | None:
    """Return a function that writes the values of a step by name.

    Args:
        writer: An object with ``add_scalar``, a function of a step and its values, or None.

    Raises:
        DiagnosisError: If it is something else.
    """
    add_scalar = getattr(writer, "add_scalar", None)
    if callable(add_scalar):

        def write(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                add_scalar(name, value, step)

        return write
    if writer is None or callable(writer):
        return writer
    raise DiagnosisError(
        f"watch: the writer must have a method add_scalar, or be a function of (step, values), got {shown(writer)}."
    )
