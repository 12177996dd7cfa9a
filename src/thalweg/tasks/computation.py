"""Computation: how the gradients and the measures of a task are computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from thalweg.engine.core import devices
from thalweg.tasks.user_code import calling_line, task_error

PRECISIONS = ("bfloat16", "float16")

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Computed:
    """The way in which the gradients and the measures of a task are computed.

    Attributes:
        accumulate: Batches whose gradients are averaged in one optimizer step, >= 1, weighted by their examples. A pass
            ends with a step, of fewer batches if need be. An optimizer on the full batch sees all examples at once.
        precision: ``"bfloat16"`` or ``"float16"`` for autocast, in training and evaluation; with ``"float16"`` a
            GradScaler scales the loss. None computes in the dtype of the model.
        needs_grad: True if measures differentiate the model's output, as those of physics-informed networks do: then
            they are evaluated with autograd. False evaluates without. None tries the first evaluation of the loss, and
            of the metric, without, and then with it; what works is used from then on.
    """

    accumulate: int = 1
    precision: Literal["bfloat16", "float16"] | None = None
    needs_grad: bool | None = None

    def _check_computed(self, name: str) -> None:
        """Raise TaskError if a part has the wrong type."""
        if not isinstance(self.accumulate, int) or isinstance(self.accumulate, bool) or self.accumulate < 1:
            raise task_error(
                name, "accumulate must be a whole number, 1 or more", f"{self.accumulate!r:.80}", where=calling_line()
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise task_error(
                name, "precision must be 'bfloat16', 'float16' or None", f"{self.precision!r:.80}", where=calling_line()
            )
        if self.needs_grad is not None and not isinstance(self.needs_grad, bool):
            raise task_error(
                name, "needs_grad must be True, False or None", f"{self.needs_grad!r:.80}", where=calling_line()
            )

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed on a device."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, self.precision))

    def evaluates_with_grad(self, measure: str) -> bool | None:
        """Return True if a measure is evaluated with autograd, None if its first evaluation has not decided that yet.

        Args:
            measure: Name of the measure.
        """
        return self._decisions.get(measure) if self.needs_grad is None else self.needs_grad

    @property
    def _decisions(self) -> dict[str, bool]:
        decisions: dict[str, bool] = self.__dict__.setdefault("_evaluates_with_grad", {})
        return decisions

    def evaluate(self, measure: str, evaluation: Callable[[], _Result]) -> _Result:
        """Evaluate a measure without autograd, or with it if it needs that. Its first evaluation decides.

        Args:
            measure: Name of the measure.
            evaluation: Returns the result.
        """
        with_grad = self.evaluates_with_grad(measure)
        if with_grad is not None:
            with torch.set_grad_enabled(with_grad):
                return evaluation()
        try:
            with torch.no_grad():
                result = evaluation()
            self._decisions[measure] = False
            return result
        except Exception as error:
            if devices.is_out_of_memory(error):
                raise
            first_error = error
        try:
            with torch.enable_grad():
                result = evaluation()
        except Exception:
            raise first_error from None  # autograd is not what it lacks
        self._decisions[measure] = True
        return result
