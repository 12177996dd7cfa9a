"""Modules of a training: found, replaced and wrapped in place, with their parameters in the optimizer."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from thalweg.diagnosis.changes.parts.optimizers import groups_of, held_parameters
from thalweg.tasks.training import Training

ADD_PARAMETERS = (
    'held = {id(param) for group in optimizer.param_groups for param in group["params"]}\n'
    'optimizer.add_param_group({"params": [param for param in model.parameters() if id(param) not in held]})'
)
"""Lines that add the parameters of the model that an optimizer lacks."""


def module_of(model: nn.Module, where: str | None) -> nn.Module | None:
    """Return the module of a name, or that of the parameter of a name; the model for None; None if there is none."""
    if not where:
        return model
    modules = dict(model.named_modules(remove_duplicate=False))
    return modules.get(where) or modules.get(where.rpartition(".")[0] if "." in where else "")


def module_name(model: nn.Module, module: nn.Module) -> str:
    """Return the name of a module in a model."""
    names: dict[int, str] = {id(each): name for name, each in model.named_modules()}
    return names[id(module)]


def path(name: str, root: str = "model") -> str:
    """Return how one writes the module of a name.

    Example:
        >>> path("hidden.0.linear")
        'model.hidden[0].linear'
    """
    return root + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split(".") if part)


def assignment(name: str, value: str) -> str:
    """Return the line that puts another module in the place of a name."""
    return f"{path(name)} = {value}" if name else f"model = {value}"


def places_of(model: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield each parent of a module, with the name that it has there."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is module:
                yield parent, name


def replace_module(training: Training, old: nn.Module, new: nn.Module) -> None:
    """Put a module in all places of another one. Parameters that the model loses or gains follow in the optimizer."""
    near = list(old.parameters())
    for parent, name in list(places_of(training.model, old)):
        parent._modules[name] = new
    new.train(old.training)
    like = next(iter(near), None) if near else next(training.model.parameters(), None)
    if like is not None:
        new.to(like.device, like.dtype) if like.is_floating_point() else new.to(like.device)
    kept = {id(param) for param in training.model.parameters()}
    add_parameters(training, new.parameters(), near)
    for group in groups_of(training):
        group["params"][:] = [
            param for param in group["params"] if id(param) in kept or not any(param is lost for lost in near)
        ]


def add_parameters(training: Training, params: Iterable[Tensor], near: Iterable[Tensor] = ()) -> list[Tensor]:
    """Add the parameters that no optimizer holds yet, and return them.

    They join the group of the parameters that are near, else the first one: a group of their own would not fit a
    scheduler that exists.

    Args:
        training: The training.
        params: Parameters to add.
        near: Parameters of the group to join.
    """
    held = held_parameters(training)
    missing = [param for param in params if id(param) not in held]
    neighbours = {id(param) for param in near}
    groups = groups_of(training)
    group = next((group for group in groups if any(id(param) in neighbours for param in group["params"])), groups[0])
    if missing:
        group["params"].extend(missing)
    return missing


def exchange_parameters(training: Training, pairs: Iterable[tuple[Tensor, Iterable[Tensor]]]) -> None:
    """Let an optimizer step other parameters in the place of some."""
    new = {id(old): list(fresh) for old, fresh in pairs}
    for group in groups_of(training):
        group["params"][:] = [fresh for param in group["params"] for fresh in new.get(id(param), [param])]


def submodules(module: nn.Module, kinds: Any) -> list[nn.Module]:
    """Return the modules of some classes inside a module, itself among them."""
    return [each for each in module.modules() if isinstance(each, kinds)]


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


def module_from_text(spelling: str) -> nn.Module:
    """Return the module of a text such as ``nn.GroupNorm(1, 64)``."""
    kind, _, arguments = spelling.removeprefix("nn.").rstrip(")").partition("(")
    return getattr(nn, kind)(*(float(text) if "." in text else int(text) for text in arguments.split(",") if text))
