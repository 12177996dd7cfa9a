"""Execution plan: the backend of each parameter of an optimizer, and the reason. It is made to be printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import backends
from thalweg.engine.backends import Backend, BackendChoice, BatchRunner
from thalweg.engine.core.batch import ParameterBatch
from thalweg.optim.parameters.bindings import ProgramFor, group_compatible
from thalweg.optim.parameters.parameter_checks import can_be_trained
from thalweg.optim.state.state_entries import as_engine_tensor


@dataclass(frozen=True)
class PlannedParameter:
    """The backend of one parameter.

    Attributes:
        name: The name of the parameter, or its position in the optimizer if it has none.
        shape: The shape of the parameter.
        dtype: The dtype of the parameter.
        device: The device of the parameter.
        choice: The backend, with the reason.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    choice: BackendChoice


@dataclass(frozen=True)
class ExecutionPlan:
    """The backend of each parameter. Integers and booleans take no step and are left out.

    Attributes:
        parameters: The planned parameters in the order of the optimizer.

    Example:
        >>> import torch
        >>> from thalweg import optim
        >>> plan = optim.AdamW([torch.zeros(3, 2)], backend="loop").plan
        >>> plan.parameters[0].choice.backend
        'loop'
    """

    parameters: tuple[PlannedParameter, ...]

    def __str__(self) -> str:
        """Return a line for each parameter below a line for its backend; neighbours share this line."""
        lines = []
        width = max((len(param.name) for param in self.parameters), default=0)
        for choice, params in groupby(self.parameters, key=lambda param: param.choice):
            lines.append(f"{choice.backend}: {choice.why}")
            for param in params:
                shape = "x".join(map(str, param.shape)) or "one number"
                dtype = str(param.dtype).removeprefix("torch.")
                lines.append(f"    {param.name:{width}}  {shape}, {dtype}, {param.device}")
        return "\n".join(lines)


def stateless_runners(
    params: Sequence[Tensor], program_for: ProgramFor, backend: Backend | None, *, captured: bool = False
) -> list[BatchRunner]:
    """Return for each parameter of a group the runner that it would have without state."""
    runners: dict[int, BatchRunner] = {}
    for indices in group_compatible(params, program_for):
        tensors = [as_engine_tensor(params[index]) for index in indices]
        batch = ParameterBatch(program_for(params[indices[0]].dtype), tensors, {})
        runners |= dict.fromkeys(indices, BatchRunner(batch, backend, captured=captured))
    return [runners[index] for index in range(len(params))]


def make_plan(
    groups: Sequence[dict[str, Any]], expected: Sequence[BatchRunner], active: Mapping[int, BatchRunner]
) -> ExecutionPlan:
    """Return the plan of all parameters of an optimizer.

    Args:
        groups: The parameter groups.
        expected: For each parameter the runner that it would have without state.
        active: The runners of the parameters that have stepped, by the parameter's id.

    Returns:
        The plan: active runners where there are any, expected ones elsewhere.
    """
    params = [param for group in groups for param in group["params"] if can_be_trained(param)]
    runners = [active.get(id(param), runner) for param, runner in zip(params, expected, strict=True)]
    choices = [runner.resolve(wait=False) for runner in runners]
    # Parameters with sums over the model step together: those that have stepped or, before the first step, all.
    joint = {
        k: runner
        for k, runner in enumerate(runners)
        if runner.batch.program.rule.traits.scope == "model" and (id(params[k]) in active or not active)
    }
    if joint and not backends.bound_kernels(list(dict.fromkeys(joint.values()))):
        for k, runner in joint.items():
            if runner.bound_kernel is not None:
                choices[k] = backends.SHARED_REDUCTION
    numbers = count()
    names = [
        name
        for group in groups
        for param, name in zip(
            group["params"], group.get("param_names") or [str(next(numbers)) for _ in group["params"]], strict=True
        )
        if can_be_trained(param)
    ]
    return ExecutionPlan(
        tuple(
            PlannedParameter(name, tuple(param.shape), param.dtype, param.device, choice)
            for name, param, choice in zip(names, params, choices, strict=True)
        )
    )
