"""The CUDA text of the scalars of many rules, compiled once for the CPU and run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cases.emulated_cuda import EmulatedModule
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda import scalars
from thalweg.engine.scalars.program import row_names, scalar_program
from thalweg.rules.math import hashing


class EmulatedScalars:
    """The scalars of programs, computed by the CUDA text on the CPU.

    Args:
        programs: The programs.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        named = [(f"scalars_{k}", scalar_program(program), program.needs_keys) for k, program in enumerate(programs)]
        self.programs = list(programs)
        self.source = scalars.scalars_source(named)
        self._module = EmulatedModule(self.source)
        self._structure = scalars.call_structure(scalars.max_recurrent([program for _, program, _ in named]))

    def run(
        self,
        number: int,
        settings: Sequence[float],
        steps: Tensor,
        recurrent: Sequence[Tensor],
        *,
        positions: Sequence[int],
        model_lr: float = 0.0,
        skip: Tensor | None = None,
        seed: int = 0,
    ) -> list[dict[str, float]]:
        """Run a kernel; return the row of each parameter. Steps and recurrent scalars are written in place."""
        program = self.programs[number]
        names = row_names(program)
        rows = torch.full((len(positions), len(names) + 1), torch.nan, dtype=torch.float64)
        keys = torch.tensor([hashing.signed(hashing.parameter_key(seed, position)) for position in positions])
        arrays: list[Any] = [
            torch.tensor(settings, dtype=torch.float64),
            torch.tensor([model_lr], dtype=torch.float64),
            torch.tensor(positions),
        ]
        call = self._structure(
            count=len(positions),
            row_length=len(names) + 1,
            settings=arrays[0].data_ptr(),
            model_lr=arrays[1].data_ptr(),
            skip=0 if skip is None else skip.data_ptr(),
            positions=arrays[2].data_ptr(),
            keys=keys.data_ptr() if program.needs_keys else 0,
            rows=rows.data_ptr(),
            steps=steps.data_ptr(),
        )
        call.recurrent[: len(recurrent)] = [entry.data_ptr() for entry in recurrent]
        for call.counting in (0, 1):
            self._module.launch(f"scalars_{number}", call, -(-len(positions) // scalars.WIDTH))
        return [dict(zip(names, row, strict=False)) for row in rows.tolist()]
