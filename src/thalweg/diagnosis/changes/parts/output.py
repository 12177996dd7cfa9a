"""The output of a training's model: what function makes it, and how the loss and the metric see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.diagnosis.changes.parts.batches import drawn, parts_of
from thalweg.diagnosis.changes.parts.functions import is_float, output_calls, undisturbed
from thalweg.diagnosis.changes.parts.modules import module_of
from thalweg.diagnosis.changes.parts.optimizers import reachable
from thalweg.diagnosis.changes.parts.source import names_in
from thalweg.tasks.training import Training

PROBABILITIES = frozenset(("softmax", "sigmoid"))
LOG_PROBABILITIES = frozenset(("log_softmax", "logsigmoid"))
ACTIVATIONS = PROBABILITIES | frozenset(
    [
        "relu",
        "relu_",
        "tanh",
        "tanh_",
        "sigmoid_",
        "softplus",
        "relu6",
        "hardtanh",
        "leaky_relu",
        "elu",
        "selu",
        "gelu",
        "silu",
        "softsign",
        "hardsigmoid",
    ]
)


@dataclass(frozen=True)
class Output:
    """An output that an activation makes.

    Attributes:
        function: The activation.
        before: Its input.
        after: Its result.
    """

    function: str
    before: Tensor
    after: Tensor


def first_batch(training: Training) -> tuple[tuple[Any, ...], Any]:
    """Return the inputs and the target of the first batch."""
    *inputs, target = parts_of(drawn(training, 1)[0])
    return tuple(inputs), target


def run_model(model: nn.Module, function: Callable[[], Any]) -> Any:
    """Call a function that runs the model without gradients; buffers and random state end as they were."""

    def run() -> Any:
        with torch.no_grad():
            return function()

    return undisturbed(model, run)


def output_of(training: Training, where: str | None, names: frozenset[str]) -> Output | None:
    """Return the output of the model, or the result of a module, that one of some functions made; None if none did.

    Args:
        training: The training. Its first batch is looked at.
        where: The module to blame; None for the model.
        names: The functions.
    """
    inputs, _ = first_batch(training)
    target = module_of(training.model, where)
    if target is None or target is training.model:
        return _at_end(training.model, inputs, names)
    matches: list[Output] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if not matches and args:
            copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in args]
            handle.remove()
            for name, before, after in output_calls(module, tuple(copies), names):
                matches.append(Output(name, before, after))

    handle = target.register_forward_hook(look)
    try:
        run_model(training.model, lambda: training.model(*inputs))
    except Exception:  # the user's own step may call the model in another way
        return None
    finally:
        handle.remove()
    return matches[0] if matches else None


def _at_end(model: nn.Module, inputs: tuple[Any, ...], names: frozenset[str]) -> Output | None:
    try:
        calls = run_model(model, lambda: output_calls(model, inputs, names))
    except Exception:
        return None
    return next((Output(name, before, after) for name, before, after in calls), None)


def plain_output(training: Training) -> tuple[Tensor, Any] | None:
    """Return the first tensor of real numbers of the model's output and the target; None if the model needs more."""
    inputs, target = first_batch(training)
    try:
        output = run_model(training.model, lambda: training.model(*inputs))
    except Exception:
        return None
    first = next((leaf for leaf in tree_leaves(output) if is_float(leaf)), None)
    return None if first is None else (first, target)


def text_of_output(training: Training, template: str) -> str:
    """Return the text of an output with a function of its first tensor.

    Args:
        training: The training.
        template: The function, with ``{}`` for the tensor.
    """
    inputs, _ = first_batch(training)
    output = run_model(training.model, lambda: training.model(*inputs))
    if isinstance(output, dict):
        first = repr(next(iter(output)))
        return f"{{**output, {first}: {template.format(f'output[{first}]')}}}"
    if isinstance(output, list | tuple):
        return f"({template.format('output[0]')}, *output[1:])"
    return template.format("output")


def uses_loss_fn(training: Training) -> bool:
    """Return whether the step calls ``training.loss_fn``, which a change may then exchange."""
    if training.step is None:
        return True
    return any("loss_fn" in names_in(function) for function in reachable([training.step], type(uses_loss_fn)))


def class_dim(output: Tensor, target: Any) -> int:
    """Return the dimension of an output that counts the classes: 1 if the other ones are those of the target, or -1.

    Example:
        >>> class_dim(torch.zeros(8, 5, 4, 4), torch.zeros(8, 4, 4, dtype=torch.long))
        1
    """
    if isinstance(target, Tensor) and output.dim() > 2:
        shape = tuple(output.shape)
        if tuple(target.shape) == (shape[0], *shape[2:]) and tuple(target.shape) != shape[:-1]:
            return 1
    return -1
