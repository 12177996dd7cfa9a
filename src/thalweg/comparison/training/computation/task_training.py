"""A task with an optimizer as a function of a seed that makes a ``Training``, as a diagnosis needs it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.training.computation.batches import batches, reseed_loaders
from thalweg.errors import DiagnosisError
from thalweg.tasks import Task, Training
from thalweg.tasks.data import examples_in
from thalweg.tasks.supervised import Supervised

MAX_STEPS = 250  # of each run of a diagnosis; a task may train for less
_OWN = "Write a function training(seed) that returns a thalweg.Training with a step of your own."


def training_function(task: Task, contender: Contender) -> Callable[[int], Training]:
    """Return a function of a seed that makes a training of a task, with an optimizer at its settings.

    The learning rate is constant. The optimizer keeps its defaults where the contender fixes no setting.

    Args:
        task: The task. It must have data.
        contender: The optimizer.

    Returns:
        A function that makes a fresh training for a seed.

    Raises:
        DiagnosisError: If the task or the optimizer needs another step than the plain one.

    Example:
        >>> from thalweg.comparison.contenders.parsing import parse
        >>> from thalweg.tasks import load
        >>> training = training_function(load("digits"), parse("adam:lr=0.01"))(0)
        >>> training.optimizer.param_groups[0]["lr"]
        0.01
    """
    _check(task, contender)
    make = _supervised_training if isinstance(task.loss, Supervised) else _training_of_loss
    return lambda seed: make(task, contender, seed)


def _check(task: Task, contender: Contender) -> None:
    rule = contender.thalweg_rule
    for condition, fails, got, remedy in (
        ("the task must have data", task.splits.train is None, "none", "Name a task with data: thalweg tasks."),
        ("the task must take a step for each batch", task.accumulate > 1, f"accumulate={task.accumulate}", _OWN),
        ("the task must have no precision of its own", task.precision is not None, str(task.precision), _OWN),
        (
            "the optimizer must need nothing but gradients",
            rule is not None and rule.traits.needs != "gradient",
            contender.name,
            _OWN,
        ),
        ("the optimizer must have no schedule here", contender.schedule is not None, str(contender.schedule), _OWN),
    ):
        if fails:
            raise DiagnosisError(f"{task.name}: {condition}, got {got}. {remedy}")


def _supervised_training(task: Task, contender: Contender, seed: int) -> Training:
    """Make the training of a task whose loss takes the output and the target."""
    loss = task.loss
    assert isinstance(loss, Supervised)
    reseed_loaders(task, seed)
    model = task.make_model(seed)
    *inputs, target = task.first_batch("train")
    output = _output_of(model, inputs)
    if not isinstance(output, Tensor):
        return _training(task, contender, seed, model, batches(task, seed, full_batch=False), loss.of_output)
    dtype = loss.fitting(target, output).dtype
    converted = ((*inputs, target.to(dtype)) for *inputs, target in batches(task, seed, full_batch=False))
    return _training(task, contender, seed, model, converted, loss.loss)


def _output_of(model: nn.Module, inputs: list[Any]) -> Any:
    """Return what a model returns, in evaluation mode; every module keeps its mode."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        output = model.eval()(*inputs)
    for module, mode in modes:
        module.training = mode
    return output


class _LossOfBatch(nn.Module):
    """A model whose output is the loss of a whole batch."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, *batch: Any) -> Tensor:
        """Return the loss of a batch."""
        return self._loss(self.model, batch)


def _training_of_loss(task: Task, contender: Contender, seed: int) -> Training:
    """Make the training of a task whose loss takes the model and the batch: the model returns it."""
    reseed_loaders(task, seed)
    model = _LossOfBatch(task.make_model(seed), task.loss)
    whole = batches(task, seed, full_batch=False)
    return _training(task, contender, seed, model, ((*batch, torch.zeros(())) for batch in whole), _output_itself)


def _output_itself(output: Tensor, target: Tensor) -> Tensor:
    return output


def _training(
    task: Task,
    contender: Contender,
    seed: int,
    model: nn.Module,
    stream: Iterator[Any],
    loss: Callable[[Any, Any], Tensor],
) -> Training:
    inner = model.model if isinstance(model, _LossOfBatch) else model
    assert isinstance(inner, nn.Module)
    optimizer = contender.optimizer(inner, {}, task.roles)
    metric = None if task.metric is None else _metric_of(task)
    return Training(model, optimizer, stream, loss, metric=metric)


def _metric_of(task: Task) -> Callable[[nn.Module], float]:
    """Return the metric on the validation split as a function of the model; higher is better."""
    sign = 1.0 if task.maximize else -1.0

    def metric(model: nn.Module) -> float:
        split = task.split("validation")
        parts = [split] if isinstance(split, tuple) else list(split or ())
        with torch.no_grad():
            values = [float(task.measure("validation")(model, part)) for part in parts]
        sizes = [examples_in(part) for part in parts]
        return sign * sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)

    return metric
