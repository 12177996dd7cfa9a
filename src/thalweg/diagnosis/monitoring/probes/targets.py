"""Targets: the torch modules and optimizers inside of what a user trains, and the names of their parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import DiagnosisError, shown

WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and of torch.compile
MAX_NESTING = 3  # of optimizers inside of proxies


def unwrapped(module: nn.Module) -> tuple[nn.Module, bool]:
    """Return the module inside of wrappers that only run it, and True if one of them compiles it."""
    compiled = _is_compiled(module)
    while True:
        inner = next((module._modules.get(name) for name in WRAPPERS if module._modules.get(name) is not None), None)
        # A model of the user's may call its only part "module", too; it is a wrapper if it has no parts of its own.
        if inner is None or len(module._modules) > 1 or module._parameters:
            return module, compiled
        module = inner
        compiled = compiled or _is_compiled(module)


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


class Parts:
    """The modules and parameters of what is trained, by the names that its owner knows.

    Args:
        model: A module, or several in a sequence or a mapping.

    Raises:
        DiagnosisError: If it is something else.
    """

    def __init__(self, model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        self._roots = _named_roots(model)

    def roots(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the name of each model and the module inside of its wrappers."""
        for prefix, root in self._roots:
            yield prefix, unwrapped(root)[0]

    def modules(self) -> Iterator[tuple[str, nn.Module, bool]]:
        """Yield the name of every module once, the module, and True if it runs inside of a compiled one."""
        seen: set[nn.Module] = set()
        for prefix, root in self._roots:
            inner, compiled = unwrapped(root)
            yield from _walk(prefix, inner, compiled, seen)

    def parameters(self) -> Iterator[tuple[str, str, nn.Module, Tensor]]:
        """Yield the name of every parameter once, the name and the module that own it, and the parameter."""
        seen: set[int] = set()
        for module_name, module, _ in self.modules():
            for name, param in module._parameters.items():
                if param is not None and id(param) not in seen:
                    seen.add(id(param))
                    yield f"{module_name}.{name}" if module_name else name, module_name, module, param


def _walk(name: str, module: nn.Module, compiled: bool, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module, bool]]:
    if module in seen:
        return
    seen.add(module)
    yield name, module, compiled
    for part, child in module._modules.items():
        if child is not None:
            inner, inside = unwrapped(child) if _is_compiled(child) else (child, False)
            yield from _walk(f"{name}.{part}" if name else part, inner, compiled or inside, seen)


def _named_roots(model: Any) -> list[tuple[str, nn.Module]]:
    if isinstance(model, nn.Module):
        return [("", model)]
    if isinstance(model, Mapping):
        roots = [(str(name), module) for name, module in model.items()]
    elif isinstance(model, Sequence) and not isinstance(model, str):
        roots = [(str(number), module) for number, module in enumerate(model)]
    else:
        roots = []
    if not roots or not all(isinstance(module, nn.Module) for _, module in roots):
        raise DiagnosisError(
            f"watch: the model must be a torch.nn.Module, or several in a list or dict, got {shown(model)}."
        )
    return roots


def optimizers_in(optimizer: Any) -> list[Any]:
    """Return the optimizers whose steps can be observed: torch's own inside of proxies and lists, else the object.

    Args:
        optimizer: An optimizer, an object around some, or several in a sequence or a mapping.

    Raises:
        DiagnosisError: If something in it has no method ``step``.
    """
    optimizers: list[Any] = []
    for member in _flattened(optimizer):
        inner = _observable(member, MAX_NESTING)
        if not inner and not callable(getattr(member, "step", None)):
            raise DiagnosisError(
                f"watch: the optimizer must have a method step, got {shown(member)}. "
                "Pass an optimizer, or several in a list or dict."
            )
        optimizers += [part for part in inner or [member] if all(part is not optimizer for optimizer in optimizers)]
    if not optimizers:
        raise DiagnosisError("watch: there must be an optimizer, got none. Pass one, or several in a list or dict.")
    return optimizers


def _flattened(optimizer: Any) -> list[Any]:
    if isinstance(optimizer, Mapping):
        return [part for value in optimizer.values() for part in _flattened(value)]
    if isinstance(optimizer, (list, tuple)):
        return [part for value in optimizer for part in _flattened(value)]
    return [optimizer]


def _observable(value: Any, nesting: int) -> list[Any]:
    """Return optimizers that run hooks: the outermost, since those inside do not see what it does itself."""
    if isinstance(value, Optimizer) and "_optimizer_step_pre_hooks" in vars(value):
        return [value]
    if nesting == 0 or isinstance(value, (str, bytes, Tensor, nn.Module, type)) or not hasattr(value, "__dict__"):
        return []
    inner = [part for attribute in list(vars(value).values()) for part in _flattened(attribute)]
    return [optimizer for part in inner for optimizer in _observable(part, nesting - 1)]
