"""Plan: how each parameter of an optimizer is run, and why. Made to be read: print it."""

from dataclasses import dataclass
from itertools import groupby

import torch

from thalweg.engine.ways import Choice


@dataclass(frozen=True)
class Planned:
    """How one parameter is run."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    choice: Choice


@dataclass(frozen=True)
class Plan:
    """How each parameter is run, in the order of the optimizer."""

    parameters: tuple[Planned, ...]

    def __str__(self) -> str:
        """A line for each parameter, under one for each way and reason; neighbours that share them share it."""
        lines = []
        width = max(len(one.name) for one in self.parameters)
        for choice, alike in groupby(self.parameters, key=lambda one: one.choice):
            lines.append(f"{choice.way}: {choice.why}")
            for one in alike:
                shape = "x".join(map(str, one.shape)) or "one number"
                lines.append(f"    {one.name:{width}}  {shape}, {str(one.dtype).removeprefix('torch.')}, {one.device}")
        return "\n".join(lines)
