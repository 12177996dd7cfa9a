"""Changes of layers: normalization, activations, residual connections, weight normalization."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import Replacement, Replacing, replace_functions
from thalweg.diagnosis.changes.parts.layers import (
    ADD_PARAMETERS,
    BATCH_NORMS,
    NORMS,
    LayerCall,
    activations_called,
    features_of,
    followed_by,
    hidden_layers,
    is_matrix,
    layer_calls,
)
from thalweg.diagnosis.changes.parts.modules import (
    add_parameters,
    assignment,
    exchange_parameters,
    name_of,
    path,
    places_of,
    replace_module,
)
from thalweg.diagnosis.changes.parts.output import ACTIVATIONS, first_batch, output_of, run_model
from thalweg.tasks.training import Training


def put_after(training: Training, layer: nn.Module, new: nn.Module) -> None:
    """Put a module after a layer."""
    param = next(layer.parameters())
    new.to(param.device, param.dtype)
    pair = nn.Sequential(nn.Identity(), new)
    pair.train(layer.training)
    for parent, name in list(places_of(training.model, layer)):
        parent._modules[name] = pair
    pair[0] = layer
    add_parameters(training, new.parameters(), layer.parameters())


@dataclass(frozen=True, kw_only=True)
class InsertNorm(Change):
    """A normalization after each hidden layer that has none.

    Attributes:
        over_batch: True for BatchNorm, False for LayerNorm (over channels and places of images).
    """

    over_batch: bool = False

    def _layers(self, training: Training) -> list[LayerCall]:
        calls = layer_calls(training)
        normed = {id(call.before) for call in calls if isinstance(call.module, NORMS)}
        chosen = [call for call in hidden_layers(calls) if id(call.after) not in normed]
        if self.over_batch:
            return [call for call in chosen if not isinstance(call.module, nn.Linear) or is_matrix(call.after)]
        return chosen

    def _spelling(self, layer: nn.Module) -> str:
        features = features_of(layer)
        if isinstance(layer, nn.Linear):
            return f"nn.BatchNorm1d({features})" if self.over_batch else f"nn.LayerNorm({features})"
        dims = type(layer).__name__[-2:]
        return f"nn.BatchNorm{dims}({features})" if self.over_batch else f"nn.GroupNorm(1, {features})"

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._layers(training) else "no hidden layer without a normalization is seen"

    def alter(self, training: Training, where: str | None) -> None:
        for call in self._layers(training):
            put_after(training, call.module, _made(self._spelling(call.module)))

    def lines(self, training: Training, where: str | None) -> str:
        layers = [(call.module, self._spelling(call.module)) for call in self._layers(training)]
        return f"{followed_by(training.model, layers)}\n{ADD_PARAMETERS}"


def _made(spelling: str) -> nn.Module:
    """Return the module of a text such as ``nn.GroupNorm(1, 64)``."""
    kind, _, arguments = spelling.removeprefix("nn.").rstrip(")").partition("(")
    return getattr(nn, kind)(*(float(text) if "." in text else int(text) for text in arguments.split(",") if text))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class ReplaceBatchNorm(Change):
    """Batch normalization replaced by one that does not depend on the batch, or left out.

    Attributes:
        drop: True to leave it out.
    """

    drop: bool = False

    def _norms(self, training: Training, where: str | None) -> list[nn.Module]:
        return [module for module in training.model.modules() if isinstance(module, BATCH_NORMS)]

    def _spelling(self, norm: nn.Module) -> str:
        if self.drop:
            return "nn.Identity()"
        features = int(norm.num_features)  # type: ignore[arg-type]
        groups = 1 if isinstance(norm, nn.BatchNorm1d) else math.gcd(8, features)
        return f"nn.GroupNorm({groups}, {features})"

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._norms(training, where) else "the model has no batch normalization"

    def alter(self, training: Training, where: str | None) -> None:
        for norm in self._norms(training, where):
            replace_module(training, norm, _made(self._spelling(norm)))

    def lines(self, training: Training, where: str | None) -> str:
        lines = [
            assignment(name_of(training.model, norm), self._spelling(norm)) for norm in self._norms(training, where)
        ]
        added = "" if self.drop else f"\n{ADD_PARAMETERS}"
        return "from torch import nn\n\n" + "\n".join(lines) + added


@dataclass(frozen=True, kw_only=True)
class BatchNormStatistics(Change):
    """Running statistics of batch normalization that follow the batches; or none, so that each batch has its own.

    Attributes:
        momentum: The share of a new batch; None to keep no running statistics.
    """

    momentum: float | None = 0.1

    def _norms(self, training: Training) -> list[Any]:
        return [
            module
            for module in training.model.modules()
            if isinstance(module, BATCH_NORMS) and module.track_running_stats and module.momentum != self.momentum
        ]

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._norms(training) else "no batch normalization has other statistics"

    def alter(self, training: Training, where: str | None) -> None:
        for norm in self._norms(training):
            if self.momentum is None:
                norm.track_running_stats = False
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            else:
                norm.momentum = self.momentum

    def lines(self, training: Training, where: str | None) -> str:
        if self.momentum is not None:
            action = f"module.momentum = {self.momentum}"
        else:
            action = (
                "module.track_running_stats = False\n"
                "        module.running_mean = module.running_var = module.num_batches_tracked = None"
            )
        return (
            "from torch import nn\n\n"
            "for module in model.modules():\n"
            "    if isinstance(module, nn.modules.batchnorm._BatchNorm):\n"
            f"        {action}"
        )


_FLAT = ("Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "LogSigmoid")
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
        found = output_of(training, None, ACTIVATIONS)
        last = [call.module for call in layer_calls(training)][-1:] if found is not None else []
        return [
            module
            for module in training.model.modules()
            if type(module).__name__ in self.old and not any(module is each for each in last)
        ]

    def _functions(self, training: Training) -> int:
        """Return how many hidden activations the text of ``forward`` calls."""
        names = {name.lower() for name in self.old}
        called = [name for name in activations_called(training) if name.rstrip("_") in names]
        found = output_of(training, None, ACTIVATIONS)
        return len(called) - (found is not None and found.function.rstrip("_") in names)

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._modules(training) or self._functions(training) else "no such activation is seen"

    def alter(self, training: Training, where: str | None) -> None:
        modules = self._modules(training)
        for module in modules:
            replace_module(training, module, _made(f"nn.{self.new}"))
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
            lines = [assignment(name_of(training.model, module), f"nn.{self.new}") for module in modules]
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
            place = path(name_of(training.model, layer))
            if activation is None:
                lines.append(f"{place} = Residual({place})")
            else:
                (parent, name), *_ = places_of(training.model, layer)
                following = path(name_of(training.model, parent)) + f"[{int(name) + 1}]"
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


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Change):
    """Hidden weights as a direction and a length, by ``weight_norm``."""

    def _layers(self, training: Training) -> list[nn.Module]:
        layers = [call.module for call in hidden_layers(layer_calls(training))]
        return [layer for layer in layers if "weight" in layer._parameters]

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._layers(training) else "no hidden layer with a weight is seen"

    def alter(self, training: Training, where: str | None) -> None:
        for layer in self._layers(training):
            old = layer.weight
            assert isinstance(old, Tensor)
            parametrizations.weight_norm(layer)
            exchange_parameters(training, [(old, layer.parametrizations.weight.parameters())])  # type: ignore[union-attr]

    def lines(self, training: Training, where: str | None) -> str:
        lines = [
            f"parametrizations.weight_norm({path(name_of(training.model, layer))})" for layer in self._layers(training)
        ]
        imports = "from torch.nn.utils import parametrizations"
        return "\n".join([imports, "", *lines, ADD_PARAMETERS])


@dataclass(frozen=True, kw_only=True)
class NormalizeQueries(Change):
    """Queries and keys normalized over their features before attention multiplies them."""

    def why_not(self, training: Training, where: str | None) -> str:
        calls: list[Any] = []

        def note(function: Any, args: Any, kwargs: Any) -> Any:
            calls.append(function)
            return function(*args, **kwargs)

        def run() -> None:
            with Replacing({"scaled_dot_product_attention": note}):
                training.model(*first_batch(training)[0])

        try:
            run_model(training.model, run)
        except Exception:
            return "the model needs more than the inputs"
        return "" if calls else "the model does not call scaled_dot_product_attention"

    def alter(self, training: Training, where: str | None) -> None:
        def attend(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            query, key, *rest = args
            return function(
                functional.layer_norm(query, query.shape[-1:]),
                functional.layer_norm(key, key.shape[-1:]),
                *rest,
                **kwargs,
            )

        replace_functions(training, {"scaled_dot_product_attention": attend}, training.model)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "# In forward, before scaled_dot_product_attention(query, key, value):\n"
            "# query = torch.nn.functional.layer_norm(query, query.shape[-1:])\n"
            "# key = torch.nn.functional.layer_norm(key, key.shape[-1:])"
        )
