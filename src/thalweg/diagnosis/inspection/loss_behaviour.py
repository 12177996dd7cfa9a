"""Loss behaviour: what a loss function is, found out by probing it with crafted outputs."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.diagnosis.inspection.observation import LossCall, Observation
from thalweg.diagnosis.inspection.observation.state import restored

Behaviour = Literal["shift invariant", "likelihood", "logits", "difference", "unknown"]
_TOLERANCE = 1e-3  # relative; crafted outputs are of order 1, and float32 is exact to 1e-6


def behaviour_of(observation: Observation, call: LossCall) -> Behaviour:
    """Return what the loss of a training does with its output.

    ``shift invariant`` losses apply a softmax themselves. ``likelihood`` sums minus the output at the target.
    ``logits`` is the binary cross-entropy of logits. ``difference`` has its minimum where output and target agree.

    Args:
        observation: The observation.
        call: A call of the loss, whose output is one tensor.
    """
    output, target = call.output, call.target
    if not _can_probe(output, target):
        return "unknown"
    generator = torch.Generator().manual_seed(0)
    crafted = (0.1 + 0.8 * torch.rand(output.shape, generator=generator)).to(output.device, output.dtype)
    try:
        with restored(observation.training), torch.enable_grad():
            return _probe(observation.training.loss_fn, crafted, target)
    except Exception:  # of the user's loss, for outputs that it does not expect
        return "unknown"


def _can_probe(output: Any, target: Any) -> bool:
    return (
        isinstance(output, Tensor)
        and isinstance(target, Tensor)
        and output.dtype in (torch.float32, torch.float64)
        and output.numel() > 0
        and output.ndim > 0 < target.ndim
    )


def _probe(loss_fn: Callable[..., Any], crafted: Tensor, target: Tensor) -> Behaviour:
    gradient = _gradient(loss_fn, crafted, target)
    size = float(gradient.abs().max())
    if size == 0.0 or not bool(gradient.isfinite().all()):
        return "unknown"
    class_dim = class_dimension(crafted, target)
    if class_dim is not None:
        at_target = torch.zeros_like(crafted).scatter_(class_dim, target.long().unsqueeze(class_dim), 1.0)
        second = _gradient(loss_fn, crafted.flip(0), target)
        if _close(gradient * (1 - at_target), 0, size) and _close(gradient, second, size):
            return "likelihood"
    if target.shape == crafted.shape:
        goal = target.to(crafted.dtype)
        if _is_multiple(gradient, crafted.sigmoid() - goal, goal) and bool(((goal == 0) | (goal == 1)).all()):
            return "logits"
        if _close(_gradient(loss_fn, goal.clone(), target), 0, size):
            return "difference"
    for dim in {1, crafted.ndim - 1} if crafted.ndim >= 2 else {0}:
        shape = [1 if place == dim else size for place, size in enumerate(crafted.shape)]
        shift = torch.linspace(-1, 1, crafted.numel() // crafted.shape[dim]).to(crafted).reshape(shape)
        values = [_value(loss_fn, output, target) for output in (crafted, crafted + shift)]
        if crafted.shape[dim] > 1 and _close(values[0], values[1], 1.0):
            return "shift invariant"
    return "unknown"


def class_dimension(output: Tensor, target: Tensor) -> int | None:
    """Return the dimension of an output that is over classes, given their numbers as targets; None if there is none."""
    if target.is_floating_point() or output.ndim < 2 or output.ndim != target.ndim + 1:
        return None
    if target.shape == output.shape[:-1]:
        return output.ndim - 1
    return 1 if target.shape == output.shape[:1] + output.shape[2:] else None


def _gradient(loss_fn: Callable[..., Any], output: Tensor, target: Tensor) -> Tensor:
    leaf = output.detach().clone().requires_grad_(True)
    return torch.autograd.grad(loss_fn(leaf, target), leaf)[0]


def _value(loss_fn: Callable[..., Any], output: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return loss_fn(output, target)


def _close(a: Tensor, b: Tensor | float, size: float) -> bool:
    return bool(((a - b).abs() <= _TOLERANCE * size).all())


def _is_multiple(gradient: Tensor, expected: Tensor, goal: Tensor) -> bool:
    """Return True if a gradient is a positive multiple of another, of its own for each class of targets."""
    for value in goal.unique()[:3]:  # type: ignore[no-untyped-call]
        ratios = (gradient / expected)[goal == value]
        middle = float(ratios.median())
        if middle <= 0 or not _close(ratios, middle, middle):
            return False
    return True


def class_weights(observation: Observation, classes: Sequence[int]) -> list[float]:
    """Return how much an example of each class counts in the loss, by the first class.

    It is the norm of the gradient of the example at equal outputs.

    Args:
        observation: The observation.
        classes: The classes. Those that cannot be probed count 1.
    """
    if not observation.loss_calls or not _can_probe(observation.loss_calls[0].output, observation.loss_calls[0].target):
        return [1.0] * len(classes)
    call, weights = observation.loss_calls[0], []
    for value in classes:
        # In one batch with examples of the first class: some losses divide by the weights of the whole batch.
        target = torch.full_like(call.target, value)
        target[1::2] = classes[0]
        try:
            with restored(observation.training), torch.enable_grad():
                gradient = _gradient(observation.training.loss_fn, torch.zeros_like(call.output), target).double()
        except Exception:  # of the user's loss
            return [1.0] * len(classes)
        count = len(gradient) // 2
        weights.append(float(gradient[: 2 * count : 2].norm() / gradient[1 : 2 * count : 2].norm()))
    return weights if all(0 < weight < float("inf") for weight in weights) else [1.0] * len(classes)


def ignores_pairing(observation: Observation, call: LossCall) -> bool:
    """Return True if the loss does not depend on which target belongs to which output."""
    output, target = call.output, call.target
    if not _can_probe(output, target) or len(target) < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    crafted = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
    order = torch.arange(len(target) - 1, -1, -1, device=target.device)
    if torch.equal(target[order], target):
        return False
    try:
        with restored(observation.training):
            values = [_value(observation.training.loss_fn, crafted, goal) for goal in (target, target[order])]
    except Exception:  # of the user's loss
        return False
    return _close(values[0], values[1], float(values[0].abs()) + 1e-12)


def doubled(batch: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return a batch that has each example twice; None if its parts are not tensors of as many examples."""
    if not all(isinstance(part, Tensor) and part.ndim >= 1 for part in batch):
        return None
    if len({len(part) for part in batch}) != 1 or len(batch[0]) < 2:
        return None
    return tuple(torch.cat([part, part]) for part in batch)
