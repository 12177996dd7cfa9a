"""Elsewhere: parameters that hold other values for a while, as in an evaluation, and are put back after it."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Elsewhere:
    """Parameters that were moved, with the values they had."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    @torch.no_grad()
    def move(self, there: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Put other values into parameters, given in pairs."""
        for param, value in there:
            self._kept.append((param, param.detach().clone()))
            param.copy_(value)

    @torch.no_grad()
    def back(self) -> None:
        """Put the values back that the parameters had."""
        for param, value in reversed(self._kept):  # the last first: some may share memory
            param.copy_(value)
        self._kept.clear()
