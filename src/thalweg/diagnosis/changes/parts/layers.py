"""The layers of a model in the order in which they are called, and what lies between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.changes.parts.functions import Replacing, name_of_function
from thalweg.diagnosis.changes.parts.modules import path
from thalweg.diagnosis.changes.parts.output import ACTIVATIONS, first_batch, run_model
from thalweg.tasks.training import Training

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class LayerCall:
    """A call of a module without children in a forward pass.

    Attributes:
        module: The module.
        before: Its first input.
        after: Its output.
    """

    module: nn.Module
    before: Any
    after: Any


def layer_calls(training: Training) -> list[LayerCall]:
    """Return the calls of the innermost modules in a forward pass of the first batch; none if it needs more."""
    inputs, _ = first_batch(training)
    calls: list[LayerCall] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        calls.append(LayerCall(module, args[0] if args else None, output))

    leaves = [module for module in training.model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    try:
        run_model(training.model, lambda: training.model(*inputs))
    except Exception:  # the user's own step may call the model in another way
        calls.clear()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def activations_called(training: Training) -> list[str]:
    """Return the names of the activations in a forward pass of the first batch."""
    inputs, _ = first_batch(training)
    called: list[str] = []

    def note(function: Any, args: Any, kwargs: Any) -> Any:
        called.append(name_of_function(function))
        return function(*args, **kwargs)

    def run() -> None:
        with Replacing(dict.fromkeys(ACTIVATIONS | {"log_softmax"}, note)):
            training.model(*inputs)

    try:
        run_model(training.model, run)
    except Exception:
        return []
    return called


def hidden_layers(calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Return the calls of layers with weights but that of the last one, each layer once."""
    calls = [call for call in calls if isinstance(call.module, WEIGHTED)]
    last = calls[-1].module if calls else None
    seen: dict[int, LayerCall] = {}
    for call in calls:
        if call.module is not last:
            seen.setdefault(id(call.module), call)
    return list(seen.values())


def followed_by(model: nn.Module, layers: Sequence[tuple[nn.Module, str]]) -> str:
    """Return the lines that put a module after each of some layers.

    Args:
        model: The model.
        layers: Each layer and the text of the module.
    """
    lines = []
    for layer, text in layers:
        first, *aliases = (path(name) for name, each in model.named_modules(remove_duplicate=False) if each is layer)
        lines += [f"{first} = nn.Sequential({first}, {text})", *(f"{second} = {first}" for second in aliases)]
    return "\n".join(["from torch import nn", "", *lines])


def features_of(layer: nn.Module) -> int:
    """Return the number of features that a layer with weights makes."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def is_matrix(value: Any) -> bool:
    """Return whether a value is a tensor of shape (batch, features)."""
    return isinstance(value, Tensor) and value.dim() == 2


def weights_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the matrices and filters of a module's own parameters by name."""
    return [(name, param) for name, param in module.named_parameters(recurse=False) if param.dim() > 1]


def is_constant(tensor: Tensor) -> bool:
    """Return whether all elements are equal, so that no unit differs from another one."""
    return tensor.numel() > 1 and bool(torch.all(tensor == tensor.flatten()[0]))
