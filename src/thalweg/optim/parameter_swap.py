"""Parameter swap: parameters that hold other values for a while, as in an evaluation, and then their own again."""

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.errors import ParameterError


class ParameterSwap:
    """Parameters that hold other values, with the values to restore. It is true while there are any."""

    def __init__(self) -> None:
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._versions: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._saved)

    @torch.no_grad()
    def swap_in(self, values: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Save the values of parameters and write other values, given as pairs of parameter and value."""
        for param, value in values:
            self._saved.append((param, param.detach().clone()))
            param.copy_(value)
        self._versions = self._write_counts()

    @torch.no_grad()
    def restore(self, who: str) -> None:
        """Write the saved values back.

        Args:
            who: The name of the optimizer, for the error message.

        Raises:
            ParameterError: If other code has written to the parameters, whose changes would be lost. A second call
                restores them.
        """
        written, self._versions = self._versions != self._write_counts(), self._write_counts()
        if written:
            raise ParameterError(
                f"{who}: parameters must not be written to between eval() and train(), which restores their values, "
                "got some that were. Save the new values if you need them, then call train() again."
            )
        for param, value in reversed(self._saved):  # the last first: parameters may share memory
            param.copy_(value)
        self._saved.clear()

    def _write_counts(self) -> list[int]:
        """Return how often each parameter was written to, as autograd counts."""
        return [0 if param.is_inference() else param._version for param, _ in self._saved]
