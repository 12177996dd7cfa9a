"""Elsewhere: parameters that hold other values for a while, as in an evaluation, and are put back after it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.errors import ParameterError


class ParameterSwap:
    """Parameters that were moved, with the values they had."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._versions: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    @torch.no_grad()
    def move(self, there: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Put other values into parameters, given in pairs."""
        for param, value in there:
            self._kept.append((param, param.detach().clone()))
            param.copy_(value)
        self._versions = self._counted()

    @torch.no_grad()
    def back(self, who: str) -> None:
        """Put the values back that the parameters had.

        Raises ParameterError if they were written to meanwhile, which would be undone; called again, it is.
        """
        written, self._versions = self._versions != self._counted(), self._counted()
        if written:
            raise ParameterError(
                f"{who}: parameters must not be written to between eval() and train(), which puts back what they were, "
                "got some that were. Save what you need of them, then call train() again."
            )
        for param, value in reversed(self._kept):  # the last first: some may share memory
            param.copy_(value)
        self._kept.clear()

    def _counted(self) -> list[int]:
        """How often each parameter was written to, as autograd counts."""
        return [0 if param.is_inference() else param._version for param, _ in self._kept]
