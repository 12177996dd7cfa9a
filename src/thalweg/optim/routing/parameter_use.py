"""Parameter use: the places of a model in which a parameter stands."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from thalweg.engine.core.shards import flat_pieces
from thalweg.errors import RoutingError
from thalweg.optim.parameters.parameter_checks import can_be_trained
from thalweg.optim.routing.wrapped_modules import class_name, named_modules

# The number of matrices in one weight of a recurrent module.
NUM_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}


@dataclass(frozen=True, eq=False)
class ParameterUse:
    """One place of a parameter in a model.

    Attributes:
        param: The parameter.
        full_name: The name of the parameter in the model, without the modules that only run others.
        module: The module that holds the parameter. For a parametrized weight it is the module that uses the weight.
        name: The name of the parameter in the module.
        path: The path of the module in the model.
        parent: The module that holds the module.
    """

    param: Tensor
    full_name: str
    module: nn.Module
    name: str
    path: str
    parent: nn.Module | None

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return class_name(self.module)

    @property
    def main_name(self) -> str:
        """The most specific name: the parameter's, or the module's if the parameter is just called `weight`."""
        return self.name if self.name != "weight" or not self.path else self.path.rpartition(".")[2]

    @property
    def near_names(self) -> list[str]:
        """The names of the parameter, of its module and of the parent."""
        return [self.name, *self.path.split(".")[-2:]]

    @property
    def is_embedding(self) -> bool:
        """True if the module looks the parameter up."""
        return isinstance(self.module, nn.Embedding | nn.EmbeddingBag) or self.kind.endswith("Embedding")

    @property
    def is_transposed(self) -> bool:
        """True if the weight has the shape (in, out), as in Conv1D of transformers."""
        return self.kind == "Conv1D"

    @property
    def is_vector(self) -> bool:
        """True if at most one dimension is larger than 1."""
        return sum(size > 1 for size in self.param.shape) < 2

    @property
    def is_weight(self) -> bool:
        """True if the module multiplies by it: in a Linear, a convolution, attention or a recurrent module."""
        if isinstance(self.module, nn.MultiheadAttention):
            return self.name.endswith("weight")
        if self.kind in NUM_GATES:
            return self.name.startswith("weight")
        multiplies = isinstance(self.module, _ConvNd) or "Linear" in self.kind or self.is_transposed
        return multiplies and self.name.startswith("weight")

    @property
    def sides(self) -> tuple[int, int]:
        """The numbers of outputs and inputs of a matrix."""
        if isinstance(self.module, _ConvNd) and not self.is_transposed:
            return self.module.out_channels, self.module.in_channels
        num_rows, num_columns = self.param.shape[0], self.param.shape[1:].numel()
        return (num_columns, num_rows) if self.is_transposed else (num_rows, num_columns)


def uses_of_parameters(model: nn.Module) -> list[list[ParameterUse]]:
    """Return all uses of each parameter that can be trained, in the order of `named_parameters`.

    Frozen parameters are among them, since they may be trained later. Integers are not: they have no gradient.

    Raises:
        RoutingError: If a parameter is not initialized, or if FSDP has flattened it.
    """
    _check_shapes(model)
    modules = named_modules(model)
    uses: dict[int, list[ParameterUse]] = {}
    for path, module in modules.items():
        for name, param in module._parameters.items():
            if param is None or not can_be_trained(param):
                continue
            full_name = f"{path}.{name}".removeprefix(".")
            if isinstance(param, UninitializedParameter):
                raise RoutingError(
                    f"route: every parameter must have a shape, got {full_name}, which is not initialized yet. "
                    "Run the model on a batch first."
                )
            user, user_name, user_path = module, name, path
            if isinstance(module, ParametrizationList):  # layer.parametrizations.weight.original0
                user_path, _, user_name = path.replace(".parametrizations.", "\0").rpartition("\0")
                user = modules[user_path]
            parent = modules.get(user_path.rpartition(".")[0]) if user_path else None
            uses.setdefault(id(param), []).append(ParameterUse(param, full_name, user, user_name, user_path, parent))
    return list(uses.values())


def _check_shapes(model: nn.Module) -> None:
    flat = set(map(id, flat_pieces(model.parameters())))
    for name, param in model.named_parameters():
        if id(param) in flat:
            raise RoutingError(
                f"route: every parameter must have the shape that its module gives it, got {name} of shape "
                f"{tuple(param.shape)}, which FullyShardedDataParallel has flattened. Shard the model with "
                "torch.distributed.fsdp.fully_shard instead. For elementwise rules, route(model) may also be called "
                "before FullyShardedDataParallel(model, use_orig_params=True), and optimizer() after it."
            )
