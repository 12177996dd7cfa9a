"""Changes of how weights begin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.changes.parts.batches import draw_code
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.layers import WEIGHTED, is_constant, is_matrix, layer_calls, weights_of
from thalweg.diagnosis.changes.parts.modules import module_name, module_of, path
from thalweg.diagnosis.changes.parts.output import first_batch, run_model
from thalweg.tasks.training import Training

_RESET = ("reset_parameters", "_reset_parameters")


def _resettable(module: nn.Module) -> str:
    return next((name for name in _RESET if callable(getattr(module, name, None))), "")


@dataclass(frozen=True, kw_only=True)
class ResetParameters(Change):
    """Weights and biases that begin as torch's layers do by default.

    Attributes:
        only_constant: True to mend only layers whose weights are all equal.
    """

    only_constant: bool = False

    def _modules(self, training: Training, where: str | None) -> list[nn.Module]:
        root = module_of(training.model, where) or training.model
        matches = [module for module in root.modules() if _resettable(module)]
        matches = matches or [module for module in training.model.modules() if _resettable(module)]
        if not self.only_constant:
            return matches
        return [module for module in matches if any(is_constant(weight) for _, weight in weights_of(module))]

    def _free(self, training: Training) -> list[tuple[str, Tensor]]:
        """Return the constant matrices that belong to no layer of torch."""
        return [
            (f"{name}.{key}" if name else key, weight)
            for name, module in training.model.named_modules()
            if not _resettable(module)
            for key, weight in weights_of(module)
            if is_constant(weight)
        ]

    def why_not(self, training: Training, where: str | None) -> str:
        if self._modules(training, where) or (self.only_constant and self._free(training)):
            return ""
        return "no layer has constant weights" if self.only_constant else "no layer has a default initialization"

    def alter(self, training: Training, where: str | None) -> None:
        for module in self._modules(training, where):
            getattr(module, _resettable(module))()
        if self.only_constant:
            for _, weight in self._free(training):
                nn.init.normal_(weight, std=0.02)

    def lines(self, training: Training, where: str | None) -> str:
        modules = self._modules(training, where)
        if not self.only_constant and len(modules) == len(self._modules(training, None)):
            return (
                "for module in model.modules():\n"
                '    if hasattr(module, "reset_parameters"):\n'
                "        module.reset_parameters()"
            )
        lines = [f"{path(module_name(training.model, module))}.{_resettable(module)}()" for module in modules]
        free = (
            [f"nn.init.normal_({path(name)}, std=0.02)" for name, _ in self._free(training)]
            if self.only_constant
            else []
        )
        return "\n".join([*lines, *(["from torch import nn", *free] if free else [])])


def _he(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight)


def _xavier(weight: Tensor) -> Tensor:
    return nn.init.xavier_uniform_(weight)


def _orthogonal(weight: Tensor) -> Tensor:
    return nn.init.orthogonal_(weight)


INITIALIZERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "he": (_he, "nn.init.kaiming_normal_"),
    "xavier": (_xavier, "nn.init.xavier_uniform_"),
    "orthogonal": (_orthogonal, "nn.init.orthogonal_"),
}
_KINDS = (*WEIGHTED, nn.RNNBase, nn.RNNCellBase)
_KINDS_TEXT = "(nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)"


@dataclass(frozen=True, kw_only=True)
class Initialize(Change):
    """Weights of linear, convolutional and recurrent layers drawn anew, biases at 0.

    Attributes:
        initializer: A name of ``INITIALIZERS``.
    """

    initializer: str

    def why_not(self, training: Training, where: str | None) -> str:
        layers = any(isinstance(module, _KINDS) for module in training.model.modules())
        return "" if layers else "the model has no linear, convolutional or recurrent layer"

    def alter(self, training: Training, where: str | None) -> None:
        draw = INITIALIZERS[self.initializer][0]
        for module in training.model.modules():
            if isinstance(module, _KINDS):
                for param in module.parameters(recurse=False):
                    draw(param) if param.dim() > 1 else nn.init.zeros_(param)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "from torch import nn\n\n"
            "for module in model.modules():\n"
            f"    if isinstance(module, {_KINDS_TEXT}):\n"
            "        for param in module.parameters(recurse=False):\n"
            f"            {INITIALIZERS[self.initializer][1]}(param) if param.dim() > 1 else nn.init.zeros_(param)"
        )


@dataclass(frozen=True, kw_only=True)
class LayerSequentialUnitVariance(Change):
    """Orthogonal weights, scaled layer by layer until the outputs on a batch have variance 1 (LSUV)."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._layers(training) else "no layer with weights is called with the inputs"

    def _layers(self, training: Training) -> list[nn.Module]:
        calls = [call for call in layer_calls(training) if isinstance(call.module, WEIGHTED)]
        return list({id(call.module): call.module for call in calls}.values())

    def alter(self, training: Training, where: str | None) -> None:
        inputs, _ = first_batch(training)
        for layer in self._layers(training):
            weight, bias = layer.weight, layer.bias
            assert isinstance(weight, Tensor)
            nn.init.orthogonal_(weight)
            if isinstance(bias, Tensor):
                nn.init.zeros_(bias)
            outputs: list[Any] = []
            handle = layer.register_forward_hook(lambda module, args, output, kept=outputs: kept.append(output))
            run_model(training.model, lambda: training.model(*inputs))
            handle.remove()
            with torch.no_grad():
                weight.div_(outputs[0].std().clamp_min(1e-8))

    def lines(self, training: Training, where: str | None) -> str:
        names = ", ".join(path(module_name(training.model, layer)) for layer in self._layers(training))
        return draw_code(training, 1, "drawn") + _LSUV.replace("LAYERS", names)


_LSUV = """
import torch
from torch import nn

for layer in [LAYERS]:
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    outputs = []
    handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        model(*drawn[0][:-1])
        layer.weight.div_(outputs[0].std().clamp_min(1e-8))
    handle.remove()"""


@dataclass(frozen=True, kw_only=True)
class ScaleWeights(Change):
    """Matrices and filters whose outputs are too large, scaled down to the default size of their layer."""

    def _layers(self, training: Training, where: str | None) -> list[nn.Linear]:
        root = module_of(training.model, where) or training.model
        return [
            module
            for module in root.modules()
            if isinstance(module, nn.Linear) and is_matrix(module.weight) and _factor(module) < 0.5
        ]

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._layers(training, where) else "no linear layer is larger than by default"

    def alter(self, training: Training, where: str | None) -> None:
        for layer in self._layers(training, where):
            with torch.no_grad():
                layer.weight.mul_(_factor(layer))

    def lines(self, training: Training, where: str | None) -> str:
        lines = [
            f"{path(module_name(training.model, layer))}.weight.data.mul_({_factor(layer):.7g})"
            for layer in self._layers(training, where)
        ]
        return "\n".join(lines)


def _factor(layer: nn.Linear) -> float:
    """Return the default standard deviation of a linear layer, 1 / sqrt(3 n), over its own."""
    return float((3 * layer.in_features) ** -0.5 / layer.weight.detach().std().clamp_min(1e-30))
