"""Changes of the optimizer and its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.optimizers import (
    Group,
    groups_of,
    is_scheduled,
    optimizers_of,
    replace_optimizer,
    scale_lr,
    start_lr,
)
from thalweg.tasks.training import Training


def has_lr(training: Training) -> bool:
    """Return whether every group has a learning rate above 0."""
    groups = groups_of(training)
    return bool(groups) and all("lr" in group and float(group["lr"]) > 0 for group in groups)


@dataclass(frozen=True, kw_only=True)
class ScaleLearningRate(Change):
    """Learning rates times a factor, in all groups."""

    factor: float = 10.0

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if has_lr(training) else "a group has no learning rate above 0"

    def alter(self, training: Training, where: str | None) -> None:
        scale_lr(training, lambda group, step: group["lr"] * self.factor)

    def lines(self, training: Training, where: str | None) -> str:
        lr = start_lr(groups_of(training)[0])
        action = f"*= {self.factor:g}" if self.factor >= 1 else f"/= {1 / self.factor:g}"
        return _for_groups(training, f'group["lr"] {action}  # {lr:g} -> {lr * self.factor:g}')


def _for_groups(training: Training, line: str) -> str:
    comment = "# before a scheduler is made\n" if is_scheduled(training) else ""
    return f"{comment}for group in optimizer.param_groups:\n    {line}"


@dataclass(frozen=True, kw_only=True)
class SetLearningRate(Change):
    """The learning rate of the first group set to a value, and those of the other groups in proportion."""

    lr: float

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if has_lr(training) else "a group has no learning rate above 0"

    def alter(self, training: Training, where: str | None) -> None:
        factor = self.lr / start_lr(groups_of(training)[0])
        scale_lr(training, lambda group, step: group["lr"] * factor)

    def lines(self, training: Training, where: str | None) -> str:
        groups = groups_of(training)
        if len({start_lr(group) for group in groups}) == 1:
            return _for_groups(training, f'group["lr"] = {self.lr:g}  # was {start_lr(groups[0]):g}')
        return _for_groups(training, f'group["lr"] *= {self.lr / start_lr(groups[0]):g}')


@dataclass(frozen=True, kw_only=True)
class WarmUp(Change):
    """Learning rates that rise linearly over the first steps."""

    steps: int = 100

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if has_lr(training) else "a group has no learning rate above 0"

    def alter(self, training: Training, where: str | None) -> None:
        scale_lr(training, lambda group, step: group["lr"] * min(1.0, (step + 1) / self.steps))

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import torch\n\n"
            f"warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / {self.steps}))\n"
            "optimizer.register_step_post_hook(lambda *_: warmup.step())"
        )


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(Change):
    """Learning rates that stay at their first values, whatever a schedule says."""

    def why_not(self, training: Training, where: str | None) -> str:
        if not has_lr(training):
            return "a group has no learning rate above 0"
        return "" if training.step is not None or is_scheduled(training) else "no schedule can act in the plain step"

    def alter(self, training: Training, where: str | None) -> None:
        rates = {id(group): start_lr(group) for group in groups_of(training)}
        scale_lr(training, lambda group, step: rates.get(id(group), group["lr"]))

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "# Or leave the scheduler out, or give it a period as long as the training, in steps.\n"
            'rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]\n\n\n'
            "def keep_rates(optimizer, args, kwargs):\n"
            "    for group, lr in zip(optimizer.param_groups, rates):\n"
            '        group["lr"] = lr\n\n\n'
            "optimizer.register_step_pre_hook(keep_rates)"
        )


@dataclass(frozen=True, kw_only=True)
class SetSetting(Change):
    """A setting of all groups that have it, set to a function of its value.

    Attributes:
        setting: Its name.
        new: The new value; the same value if nothing is to be changed.
    """

    setting: str
    new: Callable[[Any], Any]

    def why_not(self, training: Training, where: str | None) -> str:
        if any(self._is_changed(group) for group in groups_of(training)):
            return ""
        return f"no group has a {self.setting} to change"

    def _is_changed(self, group: Group) -> bool:
        value = group.get(self.setting)
        return value is not None and bool(self.new(value) != value)

    def alter(self, training: Training, where: str | None) -> None:
        for group in groups_of(training):
            if self._is_changed(group):
                group[self.setting] = self.new(group[self.setting])

    def lines(self, training: Training, where: str | None) -> str:
        group = next(group for group in groups_of(training) if self._is_changed(group))
        old, new = group[self.setting], self.new(group[self.setting])
        return _for_groups(training, f'group["{self.setting}"] = {new!r}  # was {old!r}').replace(
            "# before a scheduler is made\n", ""
        )


def no_decay(value: Any) -> Any:
    """Return a weight decay of 0."""
    return type(value)(0)


def lower_momentum(value: Any) -> Any:
    """Return a momentum of 0.9, or 0.5 if it is 0.9 or less already."""
    return value if value <= 0.5 else (0.9 if value > 0.9 else 0.5)


def lower_first_beta(value: Any) -> Any:
    """Return Adam's betas with a lower first one."""
    return (lower_momentum(value[0]), *value[1:]) if isinstance(value, tuple) and len(value) > 1 else value


def smaller_eps(value: Any) -> Any:
    """Return an epsilon of 1e-16, which is below the square of what float32 resolves near 1e-8."""
    return min(value, 1e-16)


@dataclass(frozen=True, kw_only=True)
class DecayOnlyMatrices(Change):
    """Weight decay on matrices and filters only: norms and biases get none."""

    def why_not(self, training: Training, where: str | None) -> str:
        if is_scheduled(training):
            return "a scheduler holds the groups already"
        return "" if any(_decayed_vectors(group) for group in groups_of(training)) else "no norm or bias is decayed"

    def alter(self, training: Training, where: str | None) -> None:
        for optimizer in optimizers_of(training):
            for group in list(optimizer.param_groups):
                vectors = _decayed_vectors(group)
                if vectors:
                    held = {id(param) for param in vectors}
                    group["params"][:] = [param for param in group["params"] if id(param) not in held]
                    optimizer.param_groups.append({**group, "params": vectors, "weight_decay": 0.0})

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "# before a scheduler is made\n"
            "for group in list(optimizer.param_groups):\n"
            '    vectors = [param for param in group["params"] if param.dim() <= 1]\n'
            '    group["params"] = [param for param in group["params"] if param.dim() > 1]\n'
            '    optimizer.add_param_group({**group, "params": vectors, "weight_decay": 0.0})'
        )


def _decayed_vectors(group: Group) -> list[Any]:
    return [param for param in group["params"] if param.dim() <= 1] if group.get("weight_decay") else []


@dataclass(frozen=True, kw_only=True)
class OtherOptimizer(Change):
    """Another optimizer for the same groups of parameters. A schedule acts on its learning rate by the same factors.

    Attributes:
        make: The class of the optimizer.
        settings: Its settings. Without ``lr`` it takes the learning rates of the groups.
        spelling: The class as one writes it.
        imports: The line that imports it.
    """

    make: Callable[..., Optimizer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    spelling: str
    imports: str = "import torch"

    def why_not(self, training: Training, where: str | None) -> str:
        if not has_lr(training):
            return "a group has no learning rate above 0"
        own = optimizers_of(training)
        same_lr = "lr" not in self.settings or start_lr(groups_of(training)[0]) == self.settings["lr"]
        is_same = len(own) == 1 and type(own[0]).__name__ == self.spelling.rpartition(".")[2]
        return f"the optimizer is {type(own[0]).__name__} already" if is_same and same_lr else ""

    def alter(self, training: Training, where: str | None) -> None:
        for optimizer in optimizers_of(training):
            groups = [
                {"params": list(group["params"]), "lr": self.settings.get("lr", start_lr(group))}
                for group in optimizer.param_groups
            ]
            replace_optimizer(optimizer, self.make(groups, **self.settings))

    def lines(self, training: Training, where: str | None) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        lr = "" if "lr" in self.settings else ', "lr": group["lr"]'
        return (
            f"{self.imports}\n\n"
            f'groups = [{{"params": group["params"]{lr}}} for group in optimizer.param_groups]\n'
            f"optimizer = {self.spelling}(groups{', ' if arguments else ''}{arguments})"
        )
