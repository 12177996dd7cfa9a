"""Watcher: follows gradients, optimizers, modules and the loss during steps of a training."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Self

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
    rows_alike,
    square_sum,
)
from thalweg.diagnosis.inspection.observation.records import Batch, LossCall, Observation, OptimizerStep
from thalweg.diagnosis.inspection.observation.state import SavedState
from thalweg.diagnosis.inspection.observation.trace import Trace
from thalweg.diagnosis.run_training import plain_step

SIMULATED_STEPS = 250  # of a schedule


def copied(value: Any) -> Any:
    """Return a copy of the tensors in nested tuples, lists and dictionaries: a step may change its batch in place."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(copied, value))
    return {key: copied(entry) for key, entry in value.items()} if type(value) is dict else value


def without_graph(value: Any) -> Any:
    """Return a copy of the tensors in nested containers, without their graph."""
    with torch.no_grad():
        return copied(value.detach() if isinstance(value, Tensor) else value)


class Watcher:
    """Watches the steps that are taken in its ``with`` block."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._training = observation.training
        self._hooks = ExitStack()
        self._names = {id(module): name for name, module in self._training.model.named_modules()}
        self._extra = hidden_modules(self._training.model)
        self._computed: dict[int, Tensor] = {}  # gradients since they were zeroed, before any clipping
        self._is_stepped: dict[int, bool] = {}  # since the last gradient arrived
        self._is_unzeroed: dict[int, bool] = {}
        self._base: dict[int, Tensor | None] = {}  # the gradient that the last one was added to
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
        reachable = SavedState((self._training.optimizer, self._training.step, self._training.loss_fn)).objects.values()
        optimizers = [self._training.optimizer, *(value for value in reachable if isinstance(value, Optimizer))]
        for schedule in (value for value in reachable if isinstance(value, LRScheduler)):
            self._schedules[id(schedule)] = schedule, schedule.last_epoch
        self._optimizers = {id(optimizer): optimizer for optimizer in optimizers if not _is_wrapper(optimizer)}
        for optimizer in self._optimizers.values():
            self._hold(optimizer)
        for number, tensor in enumerate(held_tensors(self._training.optimizer)):
            if id(tensor) not in self._observation.parameters:
                name = f"parameter {number} of the optimizer"
                self._observation.foreign.append(ParameterRecord(name, tensor, is_registered=False, places=1))
        for record in self._all_records():
            record.initial = record.tensor.detach().clone()

    def _all_records(self) -> list[ParameterRecord]:
        return [*self._observation.parameters.values(), *self._observation.foreign]

    def _hold(self, optimizer: Any) -> None:
        times = Counter(map(id, held_tensors(optimizer)))
        for key, record in self._observation.parameters.items():
            record.places = max(record.places, times[key])

    def __enter__(self) -> Self:
        add = self._hooks.callback
        for record in self._all_records():
            if record.tensor.requires_grad and record.tensor.is_leaf:
                arrives = functools.partial(self._gradient_arrives, record)
                hook = record.tensor.register_hook(arrives)  # type: ignore[no-untyped-call]
                add(hook.remove)
        for handle in (
            register_optimizer_step_pre_hook(
                lambda optimizer, args, kwargs: self._before_step(optimizer, *args[1:], **kwargs)
            ),
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

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def have_all_stepped(self) -> bool:
        """Return True if each optimizer that the training refers to has taken a step."""
        return set(self._optimizers) <= {id(step.optimizer) for step in self._observation.optimizer_steps}

    def take_step(self, batch: Batch, *, is_traced: bool) -> None:
        """Take one step on a batch."""
        self._roots, self._is_first_input, self._has_loss_call = [], True, False
        trace = self._trace = Trace(self._training.model, self._extra) if is_traced else None
        self._depth = 0
        self._observation.first_batch = batch if is_traced else self._observation.first_batch
        step = self._training.step or plain_step
        with trace or nullcontext():
            loss = step(self._training, *batch)
        self._observation.trace = trace or self._observation.trace
        self._observation.losses.append(float(loss) if isinstance(loss, (Tensor, float, int)) else math.nan)
        self._observation.backward_values.append(list(self._roots))

    def finish(self) -> None:
        """Look at what the steps have changed, and at what schedules will do. The watched steps are over."""
        for record in self._all_records():
            record.is_moved = record.initial is not None and not _same(record.initial, record.tensor.detach())
        reachable = SavedState((self._training.optimizer, self._training.step, self._training.loss_fn)).objects.values()
        schedules = [value for value in reachable if isinstance(value, LRScheduler)]
        done = len(self._observation.losses)
        stepped = [s for s in schedules if s.last_epoch - self._schedules.get(id(s), (s, 0))[1] >= max(1, done - 1)]
        groups = getattr(self._training.optimizer, "param_groups", None) or [{}]
        try:
            for _ in range(SIMULATED_STEPS if stepped else 0):
                for schedule in stepped:
                    schedule.step()
                self._observation.schedule.append(float(groups[0].get("lr", math.nan)))
        except Exception:  # the schedule is over, or needs a value to step by
            return

    def _gradient_arrives(self, record: ParameterRecord, gradient: Tensor) -> None:
        key, before = id(record.tensor), record.tensor.grad
        with torch.no_grad():
            is_clean = before is None or square_sum(before) == 0.0
            if is_clean:
                self._is_unzeroed[key] = False
            elif self._is_stepped.get(key, False):
                self._is_unzeroed[key] = True
            self._is_stepped[key] = False
            self._base[key] = before
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
        records, observation = self._observation.parameters, self._observation
        for key, gradient in used.items():
            self._forget_if_replaced(key, gradient)
        known = {key: self._computed.get(key, gradient) for key, gradient in used.items()}
        step = OptimizerStep(
            optimizer,
            len(observation.losses),
            [float(group.get("lr", math.nan)) for group in optimizer.param_groups],
            math.sqrt(sum(map(square_sum, known.values()))),
            math.sqrt(sum(map(square_sum, used.values()))),
            unzeroed=[records[key].name for key in used if key in records and self._is_unzeroed.get(key, False)],
            held=frozenset(used),
            listed=frozenset(tensors),
            reached=frozenset(key for key, is_stepped in self._is_stepped.items() if not is_stepped),
        )
        for key in used:
            if key in records:
                records[key].unzeroed += int(self._is_unzeroed.get(key, False))
        if not observation.optimizer_steps:
            step.gradients = {key: gradient.detach().clone() for key, gradient in known.items()}
        observation.optimizer_steps.append(step)
        self._before = {key: tensor.detach().clone() for key, tensor in tensors.items()}

    def _forget_if_replaced(self, key: int, gradient: Tensor) -> None:
        """Correct what is known of a gradient that the user has set, instead of adding to the one before."""
        base, computed = self._base.get(key), self._computed.get(key)
        if base is None or computed is None or gradient is base:
            return
        if square_sum(gradient - computed) > 1e-6 * square_sum(computed):
            self._is_unzeroed[key] = False
            self._computed[key] = gradient.detach().clone()

    def _after_step(self, optimizer: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth or not self._observation.optimizer_steps:
            return
        step = self._observation.optimizer_steps[-1]
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
        self._observation.called.add(name)
        if torch.is_grad_enabled():
            self._observation.modes.setdefault(name, []).append((len(self._observation.losses), module.training))
        has_weight = any(param.ndim >= 2 for param in module.parameters(recurse=False))
        if self._is_first_input and has_weight and inputs and isinstance(inputs[0], Tensor):
            with self._paused():
                self._observation.first_inputs.append((name, inputs[0].detach().clone()))
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
            with self._paused():
                kept = output if not self._observation.losses else without_graph(output)  # the first is in the trace
                self._observation.loss_calls.append(LossCall(kept, without_graph(target), without_graph(value)))

    def _paused(self) -> AbstractContextManager[None]:
        return self._trace.paused() if self._trace is not None else nullcontext()

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
