"""Wrapped modules: a model without the modules that only run it, such as those of `torch.compile` and of FSDP.

So a plan has the same names and roles before and after a model is compiled or distributed.
"""

from collections.abc import Iterator

from torch import nn

from thalweg.optim.checkpoints.parameter_names import PRIVATE_CHILDREN

_DATA_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# The beginning of the names of classes that `fully_shard`, `replicate` and `parametrize` derive from that of a module.
_DERIVED_PREFIXES = ("FSDP", "Replicate", "Parametrized")


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside all modules that only run it.

    Example:
        >>> unwrap(nn.DataParallel(nn.Linear(2, 1)))
        Linear(in_features=2, out_features=1, bias=True)
    """
    return [module, *_inside(module)][-1]


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    while (child := _child_name(module)) is not None:
        module = module.get_submodule(child)
        yield module


def _child_name(module: nn.Module) -> str | None:
    """Return the name of the module that this one only runs, or None if it is a module of its own."""
    if isinstance(module, _DATA_PARALLEL):
        return "module"
    return next((name for name in PRIVATE_CHILDREN if name in module._modules), None)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return all modules by path, as `Module.named_modules` does, without those that only run another one.

    Example:
        >>> list(named_modules(nn.Sequential(nn.DataParallel(nn.Linear(2, 1)))))
        ['', '0']
    """
    seen: set[int] = set()

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        module = unwrap(module)
        if id(module) not in seen:
            seen.add(id(module))
            yield path, module
            for name, child in module._modules.items():
                if child is not None:
                    yield from walk(child, f"{path}.{name}".removeprefix("."))

    return dict(walk(model, ""))


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Return the name of each parameter, by its id. It is that of its first place in the model.

    Example:
        >>> sorted(parameter_names(nn.DataParallel(nn.Linear(2, 1))).values())
        ['bias', 'weight']
    """
    names: dict[int, str] = {}
    for path, module in named_modules(model).items():
        for name, param in module._parameters.items():
            names.setdefault(id(param), f"{path}.{name}".removeprefix("."))
    return names


def clean_name(model: nn.Module, name: str) -> str:
    """Return a name, or a pattern of names, of `model.named_parameters()` as `parameter_names` has it.

    Example:
        >>> clean_name(nn.DataParallel(nn.Linear(2, 1)), "module.weight")
        'weight'
    """
    for child in PRIVATE_CHILDREN:
        name = name.replace(f"{child}.", "")
    if any(isinstance(module, _DATA_PARALLEL) for module in (model, *_inside(model))):
        name = name.removeprefix("module.")
    return name


def class_name(module: nn.Module) -> str:
    """Return the name of the class of a module as its author wrote it.

    Example:
        >>> class_name(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
        'Linear'
    """
    kind: type = type(module)
    while derived_from := next(filter(lambda base: _is_derived(kind, base), kind.__bases__), None):
        kind = derived_from
    return kind.__name__


def _is_derived(kind: type, base: type) -> bool:
    return any(kind.__name__ == f"{prefix}{base.__name__}" for prefix in _DERIVED_PREFIXES)
