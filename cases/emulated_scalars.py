"""The CUDA text of the scalars of many rules, compiled once for the CPU and run."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.core.scalar_program import row_names, scalar_program
from thalweg.engine.kernels.cuda import scalars
from thalweg.rules.math import hashing


class EmulatedScalars:
    """The scalars of programs, computed by the CUDA text on the CPU.

    Args:
        programs: The programs.
        folder: Where the library is written.
    """

    def __init__(self, programs: Sequence[Program], folder: Path) -> None:
        named = [(f"scalars_{k}", scalar_program(program), program.needs_keys) for k, program in enumerate(programs)]
        self.programs = list(programs)
        self.source = scalars.scalars_source(named)
        text, library = folder / "scalars.cpp", folder / "scalars.so"
        text.write_text(self.source)
        flags = ["-x", "c++", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-DEMULATED", "-Wall", "-Werror"]
        subprocess.run(["g++", *flags, str(text), "-o", str(library), "-lm"], check=True)
        self._library = ctypes.CDLL(str(library))
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
        self._library[f"scalars_{number}"](ctypes.byref(call))
        return [dict(zip(names, row, strict=False)) for row in rows.tolist()]
