"""Plan: how each parameter of an optimizer is run, and why. Made to be read: print it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import backends
from thalweg.engine.backends import Backend, BackendChoice, BatchRunner
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.optim.binding import group_compatible
from thalweg.optim.state_entries import as_engine_tensor


@dataclass(frozen=True)
class PlannedParameter:
    """How one parameter is run."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    choice: BackendChoice


@dataclass(frozen=True)
class ExecutionPlan:
    """How each parameter is run, in the order of the optimizer."""

    parameters: tuple[PlannedParameter, ...]

    def __str__(self) -> str:
        """A line for each parameter, under one for each way and reason; neighbours that share them share it."""
        lines = []
        width = max(len(one.name) for one in self.parameters)
        for choice, ones in groupby(self.parameters, key=lambda one: one.choice):
            lines.append(f"{choice.backend}: {choice.why}")
            for one in ones:
                shape = "x".join(map(str, one.shape)) or "one number"
                lines.append(f"    {one.name:{width}}  {shape}, {str(one.dtype).removeprefix('torch.')}, {one.device}")
        return "\n".join(lines)


def expected(
    params: Sequence[Tensor], programs: Callable[[torch.dtype], Program], asked: Backend | None
) -> list[BatchRunner]:
    """How each parameter of a group would be run if it had no state."""
    found: dict[int, BatchRunner] = {}
    for places in group_compatible(params, programs):
        own = [as_engine_tensor(params[place]) for place in places]
        found |= dict.fromkeys(places, BatchRunner(ParameterBatch(programs(params[places[0]].dtype), own, {}), asked))
    return [found[place] for place in range(len(params))]


def planned(
    groups: Sequence[dict[str, Any]], runners: Sequence[BatchRunner], running: Mapping[int, BatchRunner]
) -> ExecutionPlan:
    """The plan of all parameters: how those are run that have stepped, by their id, and how others would be."""
    params = [param for group in groups for param in group["params"]]
    used = [running.get(id(param), runner) for param, runner in zip(params, runners, strict=True)]
    choices = [runner.resolve(wait=False) for runner in used]
    # What shares its sums steps together: who has stepped, or, as long as nobody has, all.
    together = {
        k: runner
        for k, runner in enumerate(used)
        if runner.batch.program.rule.traits.scope == "model" and (id(params[k]) in running or not running)
    }
    if together and not backends.bound_kernels(list(dict.fromkeys(together.values()))):
        for k, runner in together.items():
            if runner.bound_kernel is not None:
                choices[k] = backends.SHARED_REDUCTION
    counted = iter(range(len(params)))
    names = [
        name for group in groups for name in group.get("param_names", [str(next(counted)) for _ in group["params"]])
    ]
    each = zip(names, params, choices, strict=True)
    return ExecutionPlan(
        tuple(PlannedParameter(name, tuple(one.shape), one.dtype, one.device, choice) for name, one, choice in each)
    )
