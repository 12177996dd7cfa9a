"""Observation: a few of the user's own steps, watched, and then undone."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from thalweg.diagnosis.inspection.observation.parameters import (
    ParameterRecord,
    held_tensors,
    hidden_modules,
    parameter_records,
    rows_alike,
    square_sum,
)
from thalweg.diagnosis.inspection.observation.state import Saved, restored
from thalweg.diagnosis.inspection.observation.trace import Trace
from thalweg.diagnosis.run_training import plain_step
from thalweg.tasks.training import Training

MAX_STEPS = 16  # of the user's; accumulation over more is not looked through
OPTIMIZER_STEPS = 4  # enough to see gradients that are carried along, and zeros that never move
SIMULATED_STEPS = 250  # of a schedule

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
        carried: Names of parameters whose gradient holds parts of before the step before.
        held: The ids of the parameters with a gradient that it holds.
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
    carried: list[str] = field(default_factory=list)
    held: frozenset[int] = frozenset()
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


def observe(training: Training, batches: Sequence[Batch]) -> Observation:
    """Take a few steps of a training, watch them, and undo them.

    Args:
        training: The training.
        batches: The batches; they are used again from the first on if the steps are more.
    """
    observation = _observe(training, batches, is_traced=True)
    return _observe(training, batches, is_traced=False) if observation.error is not None else observation


def observe_step(training: Training, batch: Batch) -> Observation:
    """Take one step of a training on a batch, watch it without a trace, and undo it."""
    return _observe(training, [batch], is_traced=False, max_steps=1)


def _observe(
    training: Training, batches: Sequence[Batch], *, is_traced: bool, max_steps: int = MAX_STEPS
) -> Observation:
    observation = Observation(training, batches, parameter_records(training.model))
    with restored(training):
        watcher = _Watcher(observation)
        try:
            with watcher:
                for number in range(max_steps if batches else 0):
                    watcher.take_step(copied(batches[number % len(batches)]), is_traced=is_traced and number == 0)
                    if len(observation.optimizer_steps) >= OPTIMIZER_STEPS <= number + 1:
                        break
        except Exception as error:  # of the user's code; the run of the training reports it
            observation.error = error
        watcher.finish()
    return observation


def copied(value: Any) -> Any:
    """Return a copy of the tensors in nested tuples, lists and dictionaries: a step may change its batch in place."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(copied, value))
    return {key: copied(entry) for key, entry in value.items()} if type(value) is dict else value


class _Watcher:
    """Watches the steps that are taken in its ``with`` block."""

    def __init__(self, observation: Observation) -> None:
        self._seen = observation
        self._training = observation.training
        self._hooks = ExitStack()
        self._names = {id(module): name for name, module in self._training.model.named_modules()}
        self._extra = hidden_modules(self._training.model)
        self._computed: dict[int, Tensor] = {}  # gradients since they were zeroed, before any clipping
        self._is_stepped: dict[int, bool] = {}  # since the last gradient arrived
        self._is_carried: dict[int, bool] = {}
        self._before: dict[int, Tensor] = {}
        self._roots: list[float] = []
        self._is_first_input = True
        self._has_loss_call = False
        self._depth = 0  # of optimizers that step others
        self._trace: Trace | None = None
        self._schedules: dict[int, tuple[LRScheduler, int]] = {}
        self._count_places()

    def _count_places(self) -> None:
        """Count how often optimizers list each parameter, and add those that they hold and the model does not have."""
        reachable = Saved((self._training.optimizer, self._training.step, self._training.loss_fn)).objects.values()
        optimizers = [self._training.optimizer, *(value for value in reachable if isinstance(value, Optimizer))]
        for schedule in (value for value in reachable if isinstance(value, LRScheduler)):
            self._schedules[id(schedule)] = schedule, schedule.last_epoch
        for optimizer in {id(optimizer): optimizer for optimizer in optimizers}.values():
            self._hold(optimizer)
        for number, tensor in enumerate(held_tensors(self._training.optimizer)):
            if id(tensor) not in self._seen.parameters:
                name = f"parameter {number} of the optimizer"
                self._seen.foreign.append(ParameterRecord(name, tensor, is_registered=False, places=1))
        for record in self._all_records():
            record.initial = record.tensor.detach().clone()

    def _all_records(self) -> list[ParameterRecord]:
        return [*self._seen.parameters.values(), *self._seen.foreign]

    def _hold(self, optimizer: Any) -> None:
        times = Counter(map(id, held_tensors(optimizer)))
        for key, record in self._seen.parameters.items():
            record.places = max(record.places, 0 if _is_wrapper(optimizer) else times[key])

    def __enter__(self) -> "_Watcher":
        add = self._hooks.callback
        for record in self._all_records():
            if record.tensor.requires_grad and record.tensor.is_leaf:
                hook = record.tensor.register_hook(functools.partial(self._gradient_arrives, record))
                add(hook.remove)
        for handle in (
            register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: self._before_step(optimizer, *args[1:], **kwargs)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self._after_step(optimizer)),
            torch_module.register_module_forward_pre_hook(self._begin_module),
        ):
            add(handle.remove)
        self._hooks.enter_context(_patched(torch.autograd, "backward", self._watched_backward))
        self._hooks.enter_context(_patched(torch.amp.GradScaler, "_unscale_grads_", self._watched_unscaling))
        optimizer = self._training.optimizer
        if not isinstance(optimizer, Optimizer) and not any(isinstance(v, Optimizer) for v in _values(optimizer)):
            self._hooks.enter_context(_patched(optimizer, "step", self._watched_step))
        if not isinstance(self._training.loss_fn, nn.Module):
            self._training.loss_fn = self._watched_loss(self._training.loss_fn)
        else:
            add(torch_module.register_module_forward_hook(self._end_loss_module).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()

    def take_step(self, batch: Batch, *, is_traced: bool) -> None:
        """Take one step on a batch."""
        self._roots, self._is_first_input, self._has_loss_call = [], True, False
        trace = self._trace = Trace(self._training.model, self._extra) if is_traced else None
        self._depth = 0
        self._seen.first_batch = batch if is_traced else self._seen.first_batch
        step = self._training.step or plain_step
        with trace or nullcontext():
            loss = step(self._training, *batch)
        self._seen.trace = trace or self._seen.trace
        self._seen.losses.append(float(loss) if isinstance(loss, (Tensor, float, int)) else math.nan)
        self._seen.backward_values.append(list(self._roots))

    def finish(self) -> None:
        """Look at what the steps have changed, and at what schedules will do. The watched steps are over."""
        for record in self._all_records():
            record.is_moved = record.initial is not None and not _same(record.initial, record.tensor.detach())
        reachable = Saved((self._training.optimizer, self._training.step, self._training.loss_fn)).objects.values()
        schedules = [value for value in reachable if isinstance(value, LRScheduler)]
        done = len(self._seen.losses)
        stepped = [s for s in schedules if s.last_epoch - self._schedules.get(id(s), (s, 0))[1] >= max(1, done - 1)]
        groups = getattr(self._training.optimizer, "param_groups", None) or [{}]
        try:
            for _ in range(SIMULATED_STEPS if stepped else 0):
                for schedule in stepped:
                    schedule.step()
                self._seen.schedule.append(float(groups[0].get("lr", math.nan)))
        except Exception:  # the schedule is over, or needs a value to step by
            return

    def _gradient_arrives(self, record: ParameterRecord, gradient: Tensor) -> None:
        key, before = id(record.tensor), record.tensor.grad
        with torch.no_grad():
            is_clean = before is None or square_sum(before) == 0.0
            if is_clean:
                self._is_carried[key] = False
            elif self._is_stepped.get(key, False):
                self._is_carried[key] = True
            self._is_stepped[key] = False
            self._computed[key] = gradient.detach().clone() if before is None else before.detach() + gradient.detach()
            record.arrivals += 1
            record.gradient_squares.append(square_sum(gradient))
            record.gradient_rows_alike &= rows_alike(gradient)

    def _before_step(self, optimizer: Any, closure: Any = None, **kwargs: Any) -> None:
        self._depth += 1
        if self._trace is not None and closure is None:
            self._trace.is_paused = True
        if self._depth > 1:
            return
        tensors = {id(tensor): tensor for tensor in held_tensors(optimizer)}
        used = {key: tensor.grad for key, tensor in tensors.items() if tensor.grad is not None}
        records, seen = self._seen.parameters, self._seen
        known = {key: self._computed.get(key, gradient) for key, gradient in used.items()}
        step = OptimizerStep(
            optimizer,
            len(seen.losses),
            [float(group.get("lr", math.nan)) for group in optimizer.param_groups],
            math.sqrt(sum(map(square_sum, known.values()))),
            math.sqrt(sum(map(square_sum, used.values()))),
            carried=[records[key].name for key in used if key in records and self._is_carried.get(key, False)],
            held=frozenset(used),
        )
        for key in used:
            if key in records:
                records[key].carried += int(self._is_carried.get(key, False))
        if not seen.optimizer_steps:
            step.gradients = {key: gradient.detach().clone() for key, gradient in known.items()}
        seen.optimizer_steps.append(step)
        self._before = {key: tensor.detach().clone() for key, tensor in tensors.items()}

    def _after_step(self, optimizer: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth or not self._seen.optimizer_steps:
            return
        step = self._seen.optimizer_steps[-1]
        changed = weights = 0.0
        moved = active = 0
        for tensor in {id(tensor): tensor for tensor in held_tensors(optimizer)}.values():
            before = self._before.get(id(tensor))
            self._is_stepped[id(tensor)] = True
            if before is None or tensor.grad is None:
                continue
            after = tensor.detach()
            changed += square_sum(after.double() - before.double())
            weights += square_sum(before)
            has_gradient = (tensor.grad.to_dense() if tensor.grad.is_sparse else tensor.grad) != 0
            active += int(has_gradient.sum())
            moved += int((has_gradient & (after != before)).sum())
        step.update_norm, step.weight_norm = math.sqrt(changed), math.sqrt(weights)
        step.unmoved = 1 - moved / active if active else 0.0
        self._before = {}
        if self._trace is not None:
            self._trace.is_paused = False

    def _begin_module(self, module: nn.Module, inputs: Any) -> None:
        name = self._names.get(id(module), self._extra.get(id(module)))
        if name is None:
            return
        self._seen.called.add(name)
        if torch.is_grad_enabled():
            self._seen.modes.setdefault(name, []).append((len(self._seen.losses), module.training))
        has_weight = any(param.ndim >= 2 for param in module.parameters(recurse=False))
        if self._is_first_input and has_weight and inputs and isinstance(inputs[0], Tensor):
            self._seen.first_inputs.append((name, inputs[0].detach().clone()))
            self._is_first_input = False

    def _end_loss_module(self, module: nn.Module, inputs: Any, value: Any) -> None:
        if module is self._training.loss_fn and len(inputs) >= 2:
            self._keep_loss(inputs[0], inputs[1], value)

    def _watched_loss(self, loss_fn: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            value = loss_fn(*args, **kwargs)
            if len(args) >= 2:
                self._keep_loss(args[0], args[1], value)
            return value

        return functools.update_wrapper(watched, loss_fn)

    def _keep_loss(self, output: Any, target: Any, value: Any) -> None:
        if not self._has_loss_call:
            self._has_loss_call = True
            kept = output if not self._seen.losses else copied_values(output)  # the first one is in the trace
            self._seen.loss_calls.append(LossCall(kept, copied_values(target), copied_values(value)))

    def _watched_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
            self._roots += [float(root.detach()) for root in roots if root.numel() == 1]
            return original(tensors, *args, **kwargs)

        return watched

    def _watched_unscaling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(scaler, optimizer, *args, **kwargs)
            for tensor in held_tensors(optimizer):
                if tensor.grad is not None:
                    self._computed[id(tensor)] = tensor.grad.detach().clone()
            return result

        return watched

    def _watched_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._before_step(self._training.optimizer)
            result = original(*args, **kwargs)
            self._after_step(self._training.optimizer)
            return result

        return watched


def copied_values(value: Any) -> Any:
    """Return a copy of the tensors in nested containers, without their graph."""
    with torch.no_grad():
        return copied(value.detach() if isinstance(value, Tensor) else value)


@contextmanager
def _patched(owner: Any, name: str, watched: Callable[[Any], Any]) -> Iterator[None]:
    is_own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, watched(original))
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _values(value: Any) -> list[Any]:
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


def _is_wrapper(optimizer: Any) -> bool:
    """Return True if an object only forwards to optimizers that are counted by themselves."""
    return not isinstance(optimizer, Optimizer) and any(isinstance(v, Optimizer) for v in _values(optimizer))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
