"""Changes of trainings with several losses: one network slowed down, slow targets, a divergence weighted less."""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.modules import module_of
from thalweg.diagnosis.changes.parts.optimizers import around_step, groups_of, optimizers_of, reachable
from thalweg.diagnosis.changes.parts.source import names_in
from thalweg.tasks.training import Training

_DISCRIMINATOR = re.compile(r"(^|\.|_)(d|dis|disc|discriminator|critic|adversary|netd|d_net)\d*(\.|_|$)", re.IGNORECASE)


def _discriminator_params(training: Training, where: str | None) -> set[int]:
    """Return the ids of the parameters of the discriminator: by its name, else by the module that is not to blame."""
    named = {id(p) for name, p in training.model.named_parameters() if _DISCRIMINATOR.search(name)}
    if named:
        return named
    blamed = module_of(training.model, where) if where else None
    first = optimizers_of(training)[0]
    rest = {id(param) for group in groups_of(training) for param in group["params"]}
    own = {id(param) for group in first.param_groups for param in group["params"]}
    if blamed is not None and blamed is not training.model:
        own = {id(param) for param in blamed.parameters()}
    return rest - own


@dataclass(frozen=True, kw_only=True)
class SlowDiscriminator(Change):
    """A lower learning rate for the discriminator.

    Attributes:
        factor: Its learning rate times this.
    """

    factor: float = 0.1

    def _groups(self, training: Training, where: str | None) -> list[dict[str, Any]]:
        params = _discriminator_params(training, where)
        return [group for group in groups_of(training) if any(id(param) in params for param in group["params"])]

    def why_not(self, training: Training, where: str | None) -> str:
        slow = self._groups(training, where)
        return "" if slow and len(slow) < len(groups_of(training)) else "no group holds a discriminator alone"

    def alter(self, training: Training, where: str | None) -> None:
        for group in self._groups(training, where):
            group["lr"] = group["lr"] * self.factor

    def lines(self, training: Training, where: str | None) -> str:
        lr = float(self._groups(training, where)[0]["lr"])
        text = f"# In the optimizer of the discriminator: lr={lr * self.factor:g} instead of {lr:g}."
        slow = {id(group) for group in self._groups(training, where)}
        numbers = [number for number, group in enumerate(training.optimizer.param_groups) if id(group) in slow]
        return "\n".join([text, *(f'optimizer.param_groups[{number}]["lr"] *= {self.factor:g}' for number in numbers)])


@dataclass(frozen=True, kw_only=True)
class SlowTarget(Change):
    """Targets that a slow copy of the model computes: what the step calls without gradients.

    Attributes:
        rate: How far the copy follows at each step.
    """

    rate: float = 0.01

    def why_not(self, training: Training, where: str | None) -> str:
        if training.step is None:
            return "the plain step computes no targets"
        names: set[str] = set()
        for function in reachable([training.step], FunctionType):
            names |= names_in(function)
        if names & {"no_grad", "inference_mode"}:
            return ""
        return "the step computes nothing under no_grad"

    def alter(self, training: Training, where: str | None) -> None:
        slow = copy.deepcopy(training.model).requires_grad_(False)
        state = {"stepping": False, "inside": False}

        def answer(name: str) -> Callable[..., Any]:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
                if torch.is_grad_enabled() or not state["stepping"] or state["inside"]:
                    return output
                state["inside"] = True
                try:
                    return slow.get_submodule(name)(*args, **kwargs)
                finally:
                    state["inside"] = False

            return hook

        names = ["", *(name for name, _ in training.model.named_children())]
        for name in dict.fromkeys([*names, *([where] if where else [])]):
            module = training.model.get_submodule(name) if name in names else module_of(training.model, name)
            if module is not None:
                module.register_forward_hook(answer(name), with_kwargs=True)

        def follow(owner: Any) -> None:
            with torch.no_grad():
                for late, param in zip(slow.parameters(), training.model.parameters(), strict=True):
                    late.lerp_(param.to(late), self.rate)

        around_step(optimizers_of(training)[0], after=follow)
        own_step = training.step
        assert own_step is not None

        def step(training: Training, *batch: Any) -> Any:
            state["stepping"] = True
            try:
                return own_step(training, *batch)
            finally:
                state["stepping"] = False

        step.__wrapped__ = own_step  # type: ignore[attr-defined]
        training.step = step

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import copy\n\n"
            "slow = copy.deepcopy(model).requires_grad_(False)\n\n\n"
            "def follow(optimizer, args, kwargs):\n"
            "    for late, param in zip(slow.parameters(), model.parameters()):\n"
            f"        late.lerp_(param.detach(), {self.rate:g})\n\n\n"
            "optimizer.register_step_post_hook(follow)\n"
            "# In the step, compute the targets with slow instead of model."
        )


_WEIGHT = re.compile(
    r"(^|_)(beta|kl|kld|klw|kl_weight|kld_weight|divergence|weight|lam|lambd|lambda_)(_|$)", re.IGNORECASE
)


def _weights(training: Training) -> Iterator[tuple[str, Any, float]]:
    """Yield the name, cell and value of numbers that weight a divergence in the user's loss or step."""
    for function in reachable([training.loss_fn, training.step], FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and _WEIGHT.search(name):
                yield name, cell, float(value)


@dataclass(frozen=True, kw_only=True)
class LowerWeight(Change):
    """A lower weight of the divergence, a variable of the function that makes the training.

    Attributes:
        factor: The weight times this.
    """

    factor: float = 0.01

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if list(_weights(training)) or self._attribute(training) else "no weight of a divergence is in reach"

    def _attribute(self, training: Training) -> str:
        matches = (
            name for name, value in vars(training.model).items() if isinstance(value, float) and _WEIGHT.search(name)
        )
        return next(matches, "")

    def alter(self, training: Training, where: str | None) -> None:
        cells = {id(cell): (cell, value) for _, cell, value in _weights(training)}
        for cell, value in cells.values():
            cell.cell_contents = value * self.factor
        if not cells:
            name = self._attribute(training)
            setattr(training.model, name, getattr(training.model, name) * self.factor)

    def lines(self, training: Training, where: str | None) -> str:
        matches = {name: value for name, _, value in _weights(training)}
        if matches:
            return "\n".join(f"{name} = {value * self.factor:g}  # was {value:g}" for name, value in matches.items())
        name = self._attribute(training)
        return f"model.{name} *= {self.factor:g}"
