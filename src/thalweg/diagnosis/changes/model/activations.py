"""Changes of what lies between layers: activations and residual connections."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import Replacement, replace_functions
from thalweg.diagnosis.changes.parts.layers import (
    activations_called,
    followed_by,
    hidden_layers,
    layer_calls,
)
from thalweg.diagnosis.changes.parts.modules import (
    assignment,
    module_from_text,
    module_name,
    path,
    places_of,
    put_after,
    replace_module,
)
from thalweg.diagnosis.changes.parts.output import ACTIVATIONS, output_of
from thalweg.tasks.training import Training

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "LeakyReLU(0.1)": lambda x: functional.leaky_relu(x, 0.1),
    "GELU()": functional.gelu,
    "ReLU()": functional.relu,
}


@dataclass(frozen=True, kw_only=True)
class ReplaceActivations(Change):
    """Hidden activations replaced. That at the output stays.

    Attributes:
        old: The names of the modules that are replaced.
        new: The text of the new module.
    """

    old: tuple[str, ...]
    new: str

    def _modules(self, training: Training) -> list[nn.Module]:
        matches = output_of(training, None, ACTIVATIONS)
        last = [call.module for call in layer_calls(training)][-1:] if matches is not None else []
        return [
            module
            for module in training.model.modules()
            if type(module).__name__ in self.old and not any(module is each for each in last)
        ]

    def _functions(self, training: Training) -> int:
        """Return how many hidden activations the text of ``forward`` calls."""
        names = {name.lower() for name in self.old}
        called = [name for name in activations_called(training) if name.rstrip("_") in names]
        matches = output_of(training, None, ACTIVATIONS)
        return len(called) - (matches is not None and matches.function.rstrip("_") in names)

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._modules(training) or self._functions(training) else "no such activation is seen"

    def alter(self, training: Training, where: str | None) -> None:
        modules = self._modules(training)
        for module in modules:
            replace_module(training, module, module_from_text(f"nn.{self.new}"))
        if not modules:
            self._replace_functions(training)

    def _replace_functions(self, training: Training) -> None:
        remaining = count = self._functions(training)
        new = _FUNCTIONS[self.new]

        def restart(module: nn.Module, args: Any) -> None:
            nonlocal remaining
            remaining = count

        def replacement(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal remaining
            remaining -= 1
            return new(args[0]) if remaining >= 0 else function(*args, **kwargs)

        training.model.register_forward_pre_hook(restart)
        names = [name.lower() for name in self.old]
        mended: dict[str, Replacement] = dict.fromkeys([*names, *(f"{name}_" for name in names)], replacement)
        replace_functions(training, mended, training.model)

    def lines(self, training: Training, where: str | None) -> str:
        modules = self._modules(training)
        if modules:
            lines = [assignment(module_name(training.model, module), f"nn.{self.new}") for module in modules]
            return "from torch import nn\n\n" + "\n".join(lines)
        kind = self.new.partition("(")[0]
        return f"# In forward, call torch.nn.functional.{_snake(kind)} instead of {', '.join(map(_snake, self.old))}."


def _snake(name: str) -> str:
    return {"LeakyReLU": "leaky_relu"}.get(name, name.lower())


@dataclass(frozen=True, kw_only=True)
class InsertNonlinearity(Change):
    """A ReLU between layers with weights that follow each other directly."""

    def _layers(self, training: Training) -> list[nn.Module]:
        calls = layer_calls(training)
        hidden = hidden_layers(calls)
        if not activations_called(training):
            return [call.module for call in hidden]
        inputs = {
            id(call.before) for call in calls if isinstance(call.module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        }
        return [call.module for call in hidden if id(call.after) in inputs]

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._layers(training) else "a nonlinearity lies between all layers"

    def alter(self, training: Training, where: str | None) -> None:
        for layer in self._layers(training):
            put_after(training, layer, nn.ReLU())

    def lines(self, training: Training, where: str | None) -> str:
        return followed_by(training.model, [(layer, "nn.ReLU()") for layer in self._layers(training)])


class Residual(nn.Module):
    """A module beside a connection that leaves it out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.inner(x)
        return result


@dataclass(frozen=True, kw_only=True)
class AddResiduals(Change):
    """Residual connections around hidden layers whose inputs and outputs have one shape, with their activations."""

    def _spans(self, training: Training) -> list[tuple[nn.Module, nn.Module | None]]:
        """Return each layer and the activation that follows it in the same Sequential, or None."""
        spans: list[tuple[nn.Module, nn.Module | None]] = []
        for call in hidden_layers(layer_calls(training)):
            same = isinstance(call.before, Tensor) and isinstance(call.after, Tensor)
            if same and call.before.shape == call.after.shape:
                spans.append((call.module, _activation_after(training.model, call.module)))
        return spans

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._spans(training) else "no hidden layer has inputs and outputs of one shape"

    def alter(self, training: Training, where: str | None) -> None:
        for layer, activation in self._spans(training):
            (parent, name), *_ = places_of(training.model, layer)
            parent._modules[name] = Residual(layer if activation is None else nn.Sequential(layer, activation))
            if activation is not None:
                parent._modules[str(int(name) + 1)] = nn.Identity()

    def lines(self, training: Training, where: str | None) -> str:
        lines = [_RESIDUAL]
        for layer, activation in self._spans(training):
            place = path(module_name(training.model, layer))
            if activation is None:
                lines.append(f"{place} = Residual({place})")
            else:
                (parent, name), *_ = places_of(training.model, layer)
                following = path(module_name(training.model, parent)) + f"[{int(name) + 1}]"
                lines.append(f"{place} = Residual(nn.Sequential({place}, {following}))")
                lines.append(f"{following} = nn.Identity()")
        return "\n".join(lines)


_RESIDUAL = """from torch import nn


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


"""


def _activation_after(model: nn.Module, layer: nn.Module) -> nn.Module | None:
    """Return the activation after a layer in a Sequential."""
    for parent, name in places_of(model, layer):
        if type(parent) is nn.Sequential and name.isdigit():
            following = parent._modules.get(str(int(name) + 1))
            if following is not None and type(following).__module__ == "torch.nn.modules.activation":
                places = list(places_of(model, following))
                return following if len(places) == 1 else None
    return None
