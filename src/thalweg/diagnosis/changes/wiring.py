"""Changes of what belongs to what: the model, its parameters, the graph and the optimizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.detachments import AttachedStep, Attaching, lines_of_step, lines_that_detach
from thalweg.diagnosis.changes.parts.functions import run_within, wrapped
from thalweg.diagnosis.changes.parts.modules import ADD_PARAMETERS, add_parameters, module_of, path
from thalweg.diagnosis.changes.parts.optimizers import groups_of, held_parameters, optimizers_of
from thalweg.tasks.training import Training


def missing_parameters(training: Training) -> list[str]:
    """Return the names of the model's parameters that no optimizer holds."""
    held = held_parameters(training)
    return [name for name, param in training.model.named_parameters() if id(param) not in held]


@dataclass(frozen=True, kw_only=True)
class AddParameters(Change):
    """Parameters of the model that no optimizer holds are added to it."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if missing_parameters(training) else "the optimizer holds all parameters of the model"

    def alter(self, training: Training, where: str | None) -> None:
        add_parameters(training, training.model.parameters())

    def lines(self, training: Training, where: str | None) -> str:
        return ADD_PARAMETERS


@dataclass(frozen=True, kw_only=True)
class RebuildOptimizer(Change):
    """The optimizer's parameters exchanged for those of the model, in the same groups."""

    def why_not(self, training: Training, where: str | None) -> str:
        own = {id(param) for param in training.model.parameters()}
        strange = [param for group in groups_of(training) for param in group["params"] if id(param) not in own]
        return "" if strange else "the optimizer holds parameters of the model only"

    def alter(self, training: Training, where: str | None) -> None:
        new = list(training.model.parameters())
        groups = groups_of(training)
        old = [param for group in groups for param in group["params"]]
        if [param.shape for param in old] == [param.shape for param in new]:
            remaining = iter(new)
            for group in groups:
                group["params"][:] = [next(remaining) for _ in group["params"]]
        else:
            own = {id(param) for param in new}
            for group in groups:
                group["params"][:] = [param for param in group["params"] if id(param) in own]
            add_parameters(training, new)
        for optimizer in optimizers_of(training):
            if hasattr(optimizer, "state"):
                optimizer.state.clear()

    def lines(self, training: Training, where: str | None) -> str:
        kind, group = type(optimizers_of(training)[0]), groups_of(training)[0]
        if kind.__module__.startswith("torch.optim"):
            spelling, imports = f"torch.optim.{kind.__name__}", "import torch\n\n"
        else:
            spelling, imports = "type(optimizer)", ""
        settings = ", ".join(f"{name}={value!r}" for name, value in _settings_off_default(kind, group).items())
        return (
            f"{imports}# After everything that replaces parameters: a move to a device, a copy, a new layer.\n"
            f"optimizer = {spelling}(model.parameters(), {settings})"
        )


def _settings_off_default(kind: Any, group: dict[str, Any]) -> dict[str, Any]:
    defaults = kind([nn.Parameter(torch.zeros(1))], **({"lr": group["lr"]} if "lr" in group else {})).defaults
    return {
        name: value
        for name, value in group.items()
        if name != "params" and name in defaults and (name == "lr" or value != defaults[name])
    }


@dataclass(frozen=True, kw_only=True)
class Unfreeze(Change):
    """Parameters that do not require gradients are trained, too.

    Attributes:
        everywhere: True for the whole model, not only the module to blame.
    """

    everywhere: bool = False

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._frozen(training, where) else "no parameter is frozen there"

    def _frozen(self, training: Training, where: str | None) -> list[Tensor]:
        params = dict(training.model.named_parameters())
        where = None if self.everywhere else where
        if where in params:
            chosen = [params[where]]
        else:
            chosen = list((module_of(training.model, where) or training.model).parameters())
        return [param for param in chosen if not param.requires_grad and param.is_floating_point()]

    def alter(self, training: Training, where: str | None) -> None:
        frozen = self._frozen(training, where)
        for param in frozen:
            param.requires_grad_(True)
        add_parameters(training, frozen)

    def lines(self, training: Training, where: str | None) -> str:
        frozen = self._frozen(training, where)
        held = held_parameters(training)
        target = path("" if self.everywhere else where or "")
        missing = any(id(param) not in held for param in frozen)
        return f"{target}.requires_grad_(True)" + (f"\n{ADD_PARAMETERS}" if missing else "")


def unregistered(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Yield the name, owner, attribute and value of lists and dicts that hold modules or parameters."""
    for name, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if not attribute.startswith("_") and registered(value) is not None:
                yield f"{name}.{attribute}" if name else attribute, module, attribute, value


def registered(value: Any) -> nn.Module | None:
    """Return a list or dict of modules or parameters as a module; None if it is something else."""
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        return _registered(
            value,
            list(value.values()),
            nn.ModuleDict,
            nn.ParameterDict,
            lambda parts: dict(zip(value, parts, strict=True)),
        )
    if isinstance(value, list | tuple) and value:
        return _registered(value, list(value), nn.ModuleList, nn.ParameterList, list)
    return None


def _registered(value: Any, parts: list[Any], modules: Any, params: Any, combine: Any) -> nn.Module | None:
    if all(isinstance(part, nn.Parameter) for part in parts):
        return params(value)
    inner = [part if isinstance(part, nn.Module) else registered(part) for part in parts]
    if any(part is None for part in inner):
        return None
    return modules(combine(inner))


@dataclass(frozen=True, kw_only=True)
class Register(Change):
    """Lists and dicts of layers are registered, and their parameters added to the optimizer."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if list(unregistered(training.model)) else "no plain list or dict of the model holds layers"

    def alter(self, training: Training, where: str | None) -> None:
        for _, owner, attribute, value in list(unregistered(training.model)):
            delattr(owner, attribute)
            setattr(owner, attribute, registered(value))
        training.model.train(training.model.training)
        add_parameters(training, training.model.parameters())

    def lines(self, training: Training, where: str | None) -> str:
        lines = ["from torch import nn", ""]
        for name, _, _, value in unregistered(training.model):
            lines.append(f"{path(name)} = {_expression(value, path(name))}  # where the model makes it")
        return "\n".join([*lines, ADD_PARAMETERS])


def _expression(value: Any, text: str) -> str:
    kind = type(registered(value)).__name__
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    if all(isinstance(part, nn.Module | nn.Parameter) for part in parts):
        return f"nn.{kind}({text})"
    inner = type(registered(parts[0])).__name__ if not isinstance(parts[0], nn.Module) else ""
    if isinstance(value, dict):
        return f"nn.{kind}({{key: nn.{inner}(part) for key, part in {text}.items()}})"
    return f"nn.{kind}(nn.{inner}(part) for part in {text})"


@dataclass(frozen=True, kw_only=True)
class StepOnce(Change):
    """A parameter that is listed more than once is stepped once."""

    def why_not(self, training: Training, where: str | None) -> str:
        held = [id(param) for group in groups_of(training) for param in group["params"]]
        return "" if len(held) > len(set(held)) else "every parameter is listed once"

    def alter(self, training: Training, where: str | None) -> None:
        seen: set[int] = set()
        for group in groups_of(training):
            kept = []
            for param in group["params"]:
                if id(param) not in seen:
                    seen.add(id(param))
                    kept.append(param)
            group["params"][:] = kept

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "listed = set()\n"
            "for group in optimizer.param_groups:\n"
            '    group["params"] = [\n'
            '        param for param in group["params"] if id(param) not in listed and not listed.add(id(param))\n'
            "    ]"
        )


@dataclass(frozen=True, kw_only=True)
class Attach(Change):
    """The graph is not cut while the model runs: no detach, no_grad or way through Python's numbers."""

    def why_not(self, training: Training, where: str | None) -> str:
        cuts = lines_that_detach(training) or lines_of_step(training)
        return "" if cuts else "nothing in the forward pass or the step cuts the graph"

    def alter(self, training: Training, where: str | None) -> None:
        mode = Attaching()
        in_step = not lines_that_detach(training)
        run_within(training.model, mode)
        training.loss_fn = wrapped(training.loss_fn, mode)
        if in_step and training.step is not None:
            training.step = AttachedStep(training.step, mode)
        add_parameters(training, (param for param in training.model.parameters() if param.requires_grad))

    def lines(self, training: Training, where: str | None) -> str:
        lines = [f"{line.file}:{line.number}: {line.text}" for line in lines_that_detach(training)]
        listed = "\n".join(f"# {line}" for line in lines or lines_of_step(training))
        return f"# Leave out what cuts the graph in these lines:\n{listed}"
