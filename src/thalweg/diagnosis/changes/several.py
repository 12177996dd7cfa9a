"""Changes of trainings with several losses: one network slowed down, slow targets, a divergence weighted less."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import is_float, undisturbed
from thalweg.diagnosis.changes.parts.modules import module_of
from thalweg.diagnosis.changes.parts.optimizers import around_step, groups_of, optimizers_of, reachable
from thalweg.diagnosis.changes.parts.output import first_batch
from thalweg.diagnosis.changes.parts.source import names_in
from thalweg.tasks.training import Training

_DISCRIMINATOR = re.compile(r"(^|\.|_)(d|dis|disc|discriminator|critic|adversary|netd|d_net)\d*(\.|_|$)", re.IGNORECASE)


def _discriminator_params(training: Training, where: str | None) -> set[int]:
    """Return the ids of the parameters of the discriminator: the module to blame, unless that is the generator."""
    module = module_of(training.model, where) if where else None
    blamed = (
        {id(param) for param in module.parameters()} if module is not None and module is not training.model else set()
    )
    named = {id(p) for name, p in training.model.named_parameters() if _DISCRIMINATOR.search(name)}
    if named:
        return blamed if blamed and blamed <= named else named
    own = _params_of_output(training)
    if blamed and not blamed & own:
        return blamed
    return {id(param) for group in groups_of(training) for param in group["params"]} - own


def _params_of_output(training: Training) -> set[int]:
    """Return the ids of the parameters that the model's output comes from; those of the first optimizer if unknown."""
    params = [param for group in groups_of(training) for param in group["params"] if param.requires_grad]

    def run() -> set[int]:
        with torch.enable_grad():
            inputs, _ = first_batch(training)
            leaves = [leaf for leaf in tree_leaves(training.model(*inputs)) if is_float(leaf) and leaf.requires_grad]
            gradients = torch.autograd.grad([leaf.sum() for leaf in leaves], params, allow_unused=True)
        return {id(param) for param, grad in zip(params, gradients, strict=True) if grad is not None}

    try:
        own = undisturbed(training.model, run)
    except Exception:  # the model has no forward, or needs more than the inputs
        own = set()
    first = optimizers_of(training)[0]
    return own or {id(param) for group in first.param_groups for param in group["params"]}


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


class _TargetCalls:
    """Tells the calls of modules in a step whose results get no gradient. The first step shows which ones they are."""

    def __init__(self) -> None:
        self._is_stepping = self._is_inside = self._is_known = False
        self._counts: dict[str, int] = {}
        self._reached: set[tuple[str, int]] = set()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Follow a step in a ``with`` block."""
        self._is_stepping, self._counts = True, {}
        try:
            yield
        finally:
            self._is_stepping, self._is_known = False, True

    @contextmanager
    def inside_copy(self) -> Iterator[None]:
        """Leave out the calls in a ``with`` block."""
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False

    def is_target(self, name: str, output: Any) -> bool:
        """Count a call, and return True if its result gets no gradient."""
        if not self._is_stepping or self._is_inside:
            return False
        self._counts[name] = self._counts.get(name, 0) + 1
        call = (name, self._counts[name])
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not self._is_known:
                leaf.register_hook(lambda gradient, call=call: self._reached.add(call))  # type: ignore[no-untyped-call]
        return self._is_known and call not in self._reached


@dataclass(frozen=True, kw_only=True)
class SlowTarget(Change):
    """Targets that a slow copy of the model computes: results of the model that no gradient of the step comes back to.

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
        if names & _CUTS:
            return ""
        return "the step cuts nothing off the graph"

    def alter(self, training: Training, where: str | None) -> None:
        slow = copy.deepcopy(training.model).requires_grad_(False)
        calls = _TargetCalls()

        def answer(name: str) -> Callable[..., Any]:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
                if not calls.is_target(name, output):
                    return output
                with calls.inside_copy(), torch.no_grad():
                    return slow.get_submodule(name)(*args, **kwargs)

            return hook

        names = ["", *(name for name, _ in training.model.named_children())]
        if where and module_of(training.model, where) is not None:
            names.append(where)
        for name in dict.fromkeys(names):
            training.model.get_submodule(name).register_forward_hook(answer(name), with_kwargs=True)

        def follow(owner: Any) -> None:
            with torch.no_grad():
                for late, param in zip(slow.parameters(), training.model.parameters(), strict=True):
                    late.lerp_(param.to(late), self.rate)

        around_step(optimizers_of(training)[0], after=follow)
        own_step = training.step
        assert own_step is not None

        def step(training: Training, *batch: Any) -> Any:
            with calls.step():
                return own_step(training, *batch)

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


_CUTS = {"no_grad", "inference_mode", "detach", "data"}
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
