"""Records of an observation: what a few steps of a training show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from thalweg.diagnosis.inspection.observation.parameters import ParameterRecord
from thalweg.diagnosis.inspection.observation.trace import Trace
from thalweg.tasks.training import Training

Batch = tuple[Any, ...]


@dataclass
class OptimizerStep:
    """A step of an optimizer.

    Attributes:
        optimizer: The optimizer.
        number: The number of the user's step.
        lrs: The learning rate of each group.
        computed_norm: The norm of the gradients as the backward passes left them.
        used_norm: The norm of the gradients as the optimizer got them.
        update_norm: The norm of the change of the parameters.
        weight_norm: The norm of the parameters before.
        unmoved: Of the entries with a gradient other than zero, the share that the step left bit by bit as they were.
        unzeroed: Names of parameters whose gradient holds parts of before the step before.
        held: The ids of the parameters with a gradient that it holds.
        listed: The ids of all parameters that it holds.
        reached: The ids of the parameters that got a gradient since an optimizer last stepped them.
        gradients: The computed gradients, by the id of the parameter; of the first step only.
    """

    optimizer: Any
    number: int
    lrs: list[float]
    computed_norm: float
    used_norm: float
    update_norm: float = 0.0
    weight_norm: float = 0.0
    unmoved: float = 0.0
    unzeroed: list[str] = field(default_factory=list)
    held: frozenset[int] = frozenset()
    listed: frozenset[int] = frozenset()
    reached: frozenset[int] = frozenset()
    gradients: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class LossCall:
    """A call of the loss.

    Attributes:
        output: The output of the model, as the loss gets it.
        target: The target.
        value: The loss.
    """

    output: Any
    target: Any
    value: Any


@dataclass
class Observation:
    """All that inspection knows of a training.

    Attributes:
        training: The training, as it is before the first step.
        batches: The batches.
        parameters: Its parameters, by their id.
        foreign: Parameters that its optimizer holds and that are no part of the model.
        losses: The loss of each observed step.
        optimizer_steps: The steps of optimizers.
        loss_calls: The first call of ``training.loss_fn`` of each step.
        backward_values: For each step, the scalars that a backward pass began at.
        modes: For each module, at each call with gradients, the number of the step and if it was in training mode.
        first_inputs: For each step, the name and the input of the first module with a weight.
        called: Names of the modules that were called, and the ids of modules that are not registered.
        schedule: The learning rates of the first group at the next steps, as the schedules of the training have them.
        first_batch: The batch of the first step, as the step got it.
        trace: The functions that the first step called; None if it cannot be traced.
        error: The error of the first step that failed; None if none did.
    """

    training: Training
    batches: Sequence[Batch]
    parameters: dict[int, ParameterRecord]
    foreign: list[ParameterRecord] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    optimizer_steps: list[OptimizerStep] = field(default_factory=list)
    loss_calls: list[LossCall] = field(default_factory=list)
    backward_values: list[list[float]] = field(default_factory=list)
    modes: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    first_inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    schedule: list[float] = field(default_factory=list)
    first_batch: Batch = ()
    trace: Trace | None = None
    error: Exception | None = None

    def records(self) -> list[ParameterRecord]:
        """Return the parameters of the model, in its order, also those that are not registered."""
        return list(self.parameters.values())

    def registered(self) -> list[ParameterRecord]:
        """Return the parameters of ``model.parameters()``."""
        return [record for record in self.parameters.values() if record.is_registered]

    def is_stepped(self, record: ParameterRecord) -> bool:
        """Return True if an optimizer that holds a parameter has taken a step, or none has."""
        steps = self.optimizer_steps
        return not steps or any(id(record.tensor) in step.listed for step in steps)

    def used_ids(self) -> set[int]:
        """Return the ids of the tensors that functions of the first step had as arguments; empty without a trace."""
        return {id(tensor) for call in self.trace.calls for tensor in call.tensors} if self.trace else set()

    def last_weights(self) -> set[int]:
        """Return the ids of the parameters of the last module with a weight that the first step called."""
        for call in reversed(self.trace.module_calls if self.trace else []):
            own = [param for param in call.module.parameters(recurse=False) if param.ndim >= 2]
            if own:
                return set(map(id, own))
        return set()
