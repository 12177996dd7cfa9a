"""Published rules: what a debugger of fixed rules says of the same trainings.

The rules and their default thresholds are those of the manual of Amazon SageMaker Debugger ("List of Debugger built-in
rules"); the program is ours. Where the manual leaves a choice, we take the one with fewer alarms. Tensors are saved
every ten steps instead of every 500, as these trainings are short. Left out are rules without a meaning here (similar
runs, stalled jobs, ratios of tokens, trees) and those that compare a validation loss (overfit, overtraining), which
name no kind of fault of this bench.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.doctor.judging.judge import Patient
from benchmarks.doctor.rows import Row
from benchmarks.doctor.trainings.run import Run, endless, plain_step

SAVE_INTERVAL = 10
VANISHING = 1e-7  # mean absolute gradient
INACTIVITY, LAYER = 0.01, 0.5  # share of samples, share of units
TANH_RANGE, SIGMOID_RANGE = (-9.4999, 9.4999), (-23.0, 16.99999)
POOR_RATIO, POOR_RANGE, POOR_PATIENCE, POOR_STEPS = 10.0, 1e-3, 5, 10
UPDATE_LARGE, UPDATE_SMALL, UPDATE_EPS = 10.0, 1e-8, 1e-9
IMBALANCE, MISPREDICTION, SAMPLES = 10.0, 0.7, 500
LOSS_STEPS, LOSS_DECREASE, LOSS_INCREASE = 10, 0.001, 0.05
VARIANCE_MAX, VARIANCE_MIN = 10.0, 1e-5  # no defaults; those of the example
UNCHANGED_STEPS, UNCHANGED_RTOL, UNCHANGED_ATOL = 3, 1e-5, 1e-8
IMAGE_MEAN = 0.2

NAMES = {
    "vanishing_gradient": ("vanishing_gradient", "no_gradient"),
    "exploding_tensor": ("exploding_gradient", "fp16_overflow"),
    "dead_relu": ("dead_relu",),
    "poor_weight_initialization": ("zero_init", "init_too_large", "exploding_gradient", "saturation"),
    "saturated_activation": ("saturation",),
    "weight_update_ratio": ("lr_too_high", "lr_too_low"),
    "all_zero": ("zero_init", "no_gradient", "dead_relu"),
    "class_imbalance": ("class_imbalance",),
    "loss_not_decreasing": ("plateau",),
    "tensor_variance": ("init_too_large", "exploding_gradient", "saturation"),
    "unchanged_tensor": ("plateau",),
    "check_input_images": ("inputs_not_normalised",),
}
"""The kinds of faults that a rule names, read generously."""


@dataclass
class Tensors:
    """The tensors of one saved step.

    Attributes:
        relu_inputs: Inputs of the ReLU modules.
        relu_outputs: Their outputs.
        tanh_inputs: Inputs of the Tanh modules.
        sigmoid_inputs: Inputs of the Sigmoid modules.
        gradients: Gradients of the parameters.
        before: Parameters before the step.
        after: Parameters after it.
        output: The output of the model.
        batch: The inputs and the target.
        loss: The loss.
    """

    relu_inputs: list[Tensor] = field(default_factory=list)
    relu_outputs: list[Tensor] = field(default_factory=list)
    tanh_inputs: list[Tensor] = field(default_factory=list)
    sigmoid_inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    output: Any = None
    batch: tuple[Any, ...] = ()
    loss: float = math.nan


@dataclass
class Memory:
    """State of the rules over steps: all losses, and the labels and mispredictions of each class."""

    losses: list[float] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    mispredicted: Counter[int] = field(default_factory=Counter)
    pixels: int = 0
    pixel_sum: float = 0.0
    images: int = 0


def apply_rules(patient: Patient) -> Row:
    """Train a patient and return the rules that fired, in the order of the steps at which they did first."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fired = fired_rules(patient.make(0))
    kind = patient.case.kind if patient.state == "sick" else "healthy"
    ranks = [rank for rank, rule in enumerate(fired, 1) if kind in NAMES[rule]]
    return {
        "case": patient.case.key,
        "state": patient.state,
        "kind": kind,
        "held_out": patient.case.held_out,
        "fired": fired,
        "rank": ranks[0] if ranks else None,
    }


def fired_rules(run: Run) -> dict[str, int]:
    """Train a run; return the rules that fired and the steps at which they did first, in that order."""
    training, memory, fired = run.training, Memory(), {}
    step, batches = training.step or plain_step, endless(training.batches)
    for number in range(run.steps):
        batch = next(batches)
        tensors, remove = _watched(training.model) if number % SAVE_INTERVAL == 0 else (Tensors(), lambda: None)
        tensors.before = [param.detach().clone() for param in training.model.parameters()]
        tensors.batch = batch
        tensors.loss = torch.as_tensor(step(training, *batch)).detach().item()
        remove()
        tensors.after = [param.detach() for param in training.model.parameters()]
        memory.losses.append(tensors.loss)
        for name, rule in RULES.items():
            every = name in EVERY_STEP or number % SAVE_INTERVAL == 0
            if every and name not in fired and rule(tensors, memory):
                fired[name] = number
    return fired


def _watched(model: nn.Module) -> tuple[Tensors, Callable[[], None]]:
    """Collect the tensors of a step; return them and a function that removes all hooks."""
    tensors, handles = Tensors(), []

    def saved(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.ReLU):
            tensors.relu_inputs.append(inputs[0].detach())
            tensors.relu_outputs.append(output.detach())
        elif isinstance(module, nn.Tanh):
            tensors.tanh_inputs.append(inputs[0].detach())
        elif isinstance(module, nn.Sigmoid):
            tensors.sigmoid_inputs.append(inputs[0].detach())
        if module is model:
            tensors.output = output

    def saved_gradient(param: Tensor) -> None:
        assert param.grad is not None
        tensors.gradients.append(param.grad.detach().clone())

    handles += [module.register_forward_hook(saved) for module in model.modules()]
    for param in model.parameters():
        if param.requires_grad:
            handles.append(param.register_post_accumulate_grad_hook(saved_gradient))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return tensors, remove


def _vanishing_gradient(tensors: Tensors, memory: Memory) -> bool:
    return any(gradient.abs().mean() < VANISHING for gradient in tensors.gradients)


def _exploding_tensor(tensors: Tensors, memory: Memory) -> bool:
    every = [*tensors.gradients, *tensors.after]
    return not math.isfinite(tensors.loss) or not all(tensor.isfinite().all() for tensor in every)


def _inactive(active: Tensor) -> bool:
    """Return whether most units of a layer are active on too few samples, the first dimension."""
    return bool((active.float().mean(0) < INACTIVITY).float().mean() > LAYER)


def _dead_relu(tensors: Tensors, memory: Memory) -> bool:
    return any(_inactive(output > 0) for output in tensors.relu_outputs)


def _saturated_activation(tensors: Tensors, memory: Memory) -> bool:
    ranges = [(tensors.tanh_inputs, TANH_RANGE), (tensors.sigmoid_inputs, SIGMOID_RANGE)]
    return any(_inactive((x > low) & (x < high)) for inputs, (low, high) in ranges for x in inputs)


def _poor_weight_initialization(tensors: Tensors, memory: Memory) -> bool:
    count = len(memory.losses)
    stuck = count > POOR_PATIENCE and not min(memory.losses[-POOR_PATIENCE:]) < memory.losses[-POOR_PATIENCE - 1]
    if count > POOR_STEPS or not stuck:
        return False
    variances = [x.float().var().item() for x in tensors.relu_inputs]
    uneven = bool(variances) and max(variances) > POOR_RATIO * min(variances)
    narrow = any(
        torch.quantile(g.flatten().float(), 0.95) - torch.quantile(g.flatten().float(), 0.05) < POOR_RANGE
        for g in tensors.gradients
        if g.numel() > 1 and g.isfinite().all()
    )
    return uneven or narrow


def _weight_update_ratio(tensors: Tensors, memory: Memory) -> bool:
    ratios = [
        ((after - before).abs().mean() / (before.abs().mean() + UPDATE_EPS)).item()
        for before, after in zip(tensors.before, tensors.after, strict=True)
    ]
    return any(ratio > UPDATE_LARGE or ratio < UPDATE_SMALL for ratio in ratios)


def _all_zero(tensors: Tensors, memory: Memory) -> bool:
    return any(not tensor.any() for tensor in [*tensors.gradients, *tensors.after, *tensors.relu_outputs])


def _class_imbalance(tensors: Tensors, memory: Memory) -> bool:
    output, target = tensors.output, tensors.batch[-1]
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return False
    if not target.is_floating_point():
        labels, predictions = target.flatten(), output.flatten(0, -2).argmax(-1)
    elif output.shape == target.shape and set(target.unique().tolist()) <= {0.0, 1.0}:
        labels, predictions = target.flatten().long(), (output.flatten() > 0).long()
    else:
        return False
    if len(labels) != len(predictions):  # a step that calls the model for parts of a batch
        return False
    memory.labels.update(labels.tolist())
    memory.mispredicted.update(labels[labels != predictions].tolist())
    if memory.labels.total() < SAMPLES:
        return False
    uneven = max(memory.labels.values()) > IMBALANCE * min(memory.labels.values())
    return uneven or any(memory.mispredicted[k] > MISPREDICTION * n for k, n in memory.labels.items())


def _loss_not_decreasing(tensors: Tensors, memory: Memory) -> bool:
    losses = memory.losses
    if len(losses) <= LOSS_STEPS or (len(losses) - 1) % LOSS_STEPS:
        return False
    old, new = losses[-1 - LOSS_STEPS], losses[-1]
    change = (new - old) / max(abs(old), 1e-300)
    return change > LOSS_INCREASE or -LOSS_DECREASE < change <= 0


def _tensor_variance(tensors: Tensors, memory: Memory) -> bool:
    variances = [after.float().var().item() for after in tensors.after if after.numel() > 1]
    return any(variance > VARIANCE_MAX or variance < VARIANCE_MIN for variance in variances)


def _unchanged_tensor(tensors: Tensors, memory: Memory) -> bool:
    last = memory.losses[-1 - (UNCHANGED_STEPS - 1) * SAVE_INTERVAL :: SAVE_INTERVAL]
    if len(last) < UNCHANGED_STEPS:
        return False
    return all(abs(loss - last[-1]) <= UNCHANGED_ATOL + UNCHANGED_RTOL * abs(last[-1]) for loss in last)


def _check_input_images(tensors: Tensors, memory: Memory) -> bool:
    x = tensors.batch[0]
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    memory.images += len(x)
    memory.pixels += x.numel()
    memory.pixel_sum += x.double().sum().item()
    return memory.images >= SAMPLES and abs(memory.pixel_sum / memory.pixels) > IMAGE_MEAN


Rule = Callable[[Tensors, Memory], bool]
RULES: dict[str, Rule] = {
    "dead_relu": _dead_relu,
    "exploding_tensor": _exploding_tensor,
    "poor_weight_initialization": _poor_weight_initialization,
    "saturated_activation": _saturated_activation,
    "vanishing_gradient": _vanishing_gradient,
    "weight_update_ratio": _weight_update_ratio,
    "all_zero": _all_zero,
    "class_imbalance": _class_imbalance,
    "loss_not_decreasing": _loss_not_decreasing,
    "tensor_variance": _tensor_variance,
    "unchanged_tensor": _unchanged_tensor,
    "check_input_images": _check_input_images,
}
EVERY_STEP = {"poor_weight_initialization"}  # looks at each of the first steps
