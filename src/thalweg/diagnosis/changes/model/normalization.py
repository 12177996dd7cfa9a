"""Changes of normalization: of layers, of batches, of weights, of queries and keys."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import Replacing, replace_functions
from thalweg.diagnosis.changes.parts.layers import (
    BATCH_NORMS,
    NORMS,
    LayerCall,
    features_of,
    followed_by,
    hidden_layers,
    is_matrix,
    layer_calls,
)
from thalweg.diagnosis.changes.parts.modules import (
    ADD_PARAMETERS,
    assignment,
    exchange_parameters,
    module_from_text,
    module_name,
    path,
    put_after,
    replace_module,
)
from thalweg.diagnosis.changes.parts.output import first_batch, run_model
from thalweg.tasks.training import Training


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
            put_after(training, call.module, module_from_text(self._spelling(call.module)))

    def lines(self, training: Training, where: str | None) -> str:
        layers = [(call.module, self._spelling(call.module)) for call in self._layers(training)]
        return f"{followed_by(training.model, layers)}\n{ADD_PARAMETERS}"


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
            replace_module(training, norm, module_from_text(self._spelling(norm)))

    def lines(self, training: Training, where: str | None) -> str:
        lines = [
            assignment(module_name(training.model, norm), self._spelling(norm)) for norm in self._norms(training, where)
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
            f"parametrizations.weight_norm({path(module_name(training.model, layer))})"
            for layer in self._layers(training)
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
