"""Parameters: their names, who holds them, and what a few steps do to them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_DEPTH = 4  # of containers in containers
_OWN = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


@dataclass(eq=False)
class ParameterRecord:
    """A parameter and what was seen of it.

    Attributes:
        name: Its qualified name.
        tensor: The parameter.
        is_registered: True if ``model.parameters()`` has it.
        container: The attribute that holds it, if it is not registered.
        initial: Its values before the first step.
        places: How often an optimizer lists it.
        arrivals: Backward passes that reached it.
        gradient_squares: For each of them, the sum of the squares of its gradient.
        gradient_rows_alike: True if the rows of each of its gradients were the same.
        unzeroed: Steps of an optimizer at which its gradient still held parts of before the step before.
        is_moved: True if a step changed it.
    """

    name: str
    tensor: Tensor
    is_registered: bool = True
    container: str = ""
    initial: Tensor | None = None
    places: int = 0
    arrivals: int = 0
    gradient_squares: list[float] = field(default_factory=list)
    gradient_rows_alike: bool = True
    unzeroed: int = 0
    is_moved: bool = False

    @property
    def module(self) -> str:
        """The name of the module that has it."""
        return self.name.rpartition(".")[0]

    @property
    def is_held(self) -> bool:
        """True if an optimizer holds it."""
        return self.places > 0

    @property
    def rms_gradient(self) -> float:
        """The root of the mean square of its first gradient; 0 without one."""
        count = max(1, self.tensor.numel())
        return float((self.gradient_squares[0] / count) ** 0.5) if self.gradient_squares else 0.0


def parameter_records(model: nn.Module) -> dict[int, ParameterRecord]:
    """Return the parameters of a model, registered or not, by their id."""
    records = {id(param): ParameterRecord(name, param) for name, param in model.named_parameters()}
    for container, name, value in hidden_members(model):
        named = [(name, value)] if isinstance(value, Tensor) else _named_parameters(name, value)
        for key, tensor in named:
            records.setdefault(id(tensor), ParameterRecord(key, tensor, is_registered=False, container=container))
    return records


def hidden_modules(model: nn.Module) -> dict[int, str]:
    """Return the names of modules that a model uses and does not register, by their id."""
    return {
        id(module): f"{name}.{key}" if key else name
        for _, name, value in hidden_members(model)
        if isinstance(value, nn.Module)
        for key, module in value.named_modules()
    }


def hidden_members(model: nn.Module) -> Iterator[tuple[str, str, Tensor | nn.Module]]:
    """Yield modules and tensors that require gradients in lists, dictionaries and objects of a model's modules.

    Each comes with the name of the attribute that holds it, and its own name.
    """
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in _OWN and not key.endswith("_hooks"):
                name = f"{prefix}.{key}" if prefix else key
                yield from ((name, *member) for member in _members(name, value, _DEPTH))


def _named_parameters(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key, param in module.named_parameters():
        yield f"{name}.{key}", param
    for _, key, value in hidden_members(module):
        yield from (
            [(f"{name}.{key}", value)] if isinstance(value, Tensor) else _named_parameters(f"{name}.{key}", value)
        )


def _members(name: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor | nn.Module]]:
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield name, value
    elif isinstance(value, nn.Module):
        yield name, value
    elif depth and not isinstance(value, (type, Optimizer)):
        for key, entry in _entries(value):
            yield from _members(f"{name}.{key}", entry, depth - 1)


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(enumerate(value))
    fields = getattr(value, "__dict__", None)
    is_plain = isinstance(fields, dict) and not callable(value) and not hasattr(value, "__torch_function__")
    return list(fields.items()) if is_plain and fields is not None else []


def held_tensors(optimizer: Any) -> list[Tensor]:
    """Return the parameters that an optimizer lists, as often as it lists them."""
    groups = getattr(optimizer, "param_groups", None) or []
    return [param for group in groups for param in group.get("params", ()) if isinstance(param, Tensor)]


def rows_alike(tensor: Tensor) -> bool:
    """Return True if a matrix has several rows, and all are the same."""
    if tensor.ndim < 2 or tensor.shape[0] < 2 or tensor.numel() == tensor.shape[0] * 0:
        return False
    matrix = (tensor.to_dense() if tensor.is_sparse else tensor).detach().flatten(1)
    return bool((matrix == matrix[:1]).all())


def square_sum(tensor: Tensor) -> float:
    """Return the sum of the squares of a tensor, in double precision."""
    dense = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    return (
        float(dense.to(torch.float64).square().sum()) if not dense.is_complex() else float(dense.abs().square().sum())
    )


def largest_entry(tensor: Tensor) -> float:
    """Return the largest magnitude of the entries of a tensor; 0 if it has none."""
    dense = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    return float(dense.abs().max()) if dense.numel() else 0.0


def owners(names: Iterable[str], everything: Iterable[str]) -> list[str]:
    """Return the largest modules all of whose parameters are among some; a parameter itself where no module is.

    Args:
        names: The names of the parameters, in the order of the model.
        everything: The names of all parameters that count.
    """
    chosen = list(names)
    outside = set(everything) - set(chosen)
    result: list[str] = []
    for name in chosen:
        if any(name == owner or name.startswith(f"{owner}.") for owner in result):
            continue
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) for length in range(1, len(parts))]
        whole = (prefix for prefix in prefixes if not any(module.startswith(f"{prefix}.") for module in outside))
        result.append(next(whole, name))
    return result
