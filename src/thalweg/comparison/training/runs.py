"""Runs: a training under way, of a single model or of a population.

Both have the same verbs (``step``, ``evaluate``), so one loop trains either. A seed decides the initial weights and the
order of the data, whatever the contender: trainings are paired by it.
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.external import set_training_mode
from thalweg.comparison.training.batches import batches, reseed_loaders, stacked_batches
from thalweg.comparison.training.group_means import GroupMeans, measure_in_groups
from thalweg.engine import population
from thalweg.errors import TaskError
from thalweg.optim import RuleOptimizer
from thalweg.optim.routing import GroupOverrides
from thalweg.tasks import Batch, Task
from thalweg.tasks.task import Measure

# Examples in a forward pass without gradients: more of them gain nothing, and convolutions fall out of the cache.
GROUP_SIZE = 256
GROUP_SIZE_OF_MEMBER = 128  # in a population

# vmap warns of an operation without a fast form. The pilot measures what that costs, and acts on it.
warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")


@dataclass(frozen=True)
class Trial:
    """A training to be done.

    Attributes:
        settings: Settings that replace those the contender starts from.
        seed: Seed of the initial weights and of the order of the data.
    """

    settings: Settings
    seed: int


class Run(Protocol):
    """A training under way, of one model or of a population.

    Attributes:
        members: Number of models in training.
    """

    members: int

    def step(self, lr_factor: float) -> None:
        """Take one optimizer step, at this share of the learning rate."""

    def keep(self, members: Sequence[int]) -> None:
        """Continue with these members alone, at least one, in their order."""

    def evaluate(self, split: str) -> list[float]:
        """Return the measure on this split, for each member."""

    def test(self) -> list[tuple[float, float]]:
        """Return the measure on the test split and its standard error over the examples, for each member."""


class _Objective(nn.Module):
    """A measure and its model as one module, so that ``functional_call`` can substitute the weights."""

    def __init__(self, model: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.model = model
        self.measure = measure

    def forward(self, batch: Batch) -> Tensor:
        return self.measure(self.model, batch)


class SingleRun:
    """One model, trained as its owner would: backward, then the optimizer's step.

    Args:
        task: The task.
        contender: The contender.
        trial: Settings and seed.

    Attributes:
        needs_closure: True if the optimizer calls the closure as often as it likes, as L-BFGS does.
        passes_closure: True if the optimizer's step takes a closure.
    """

    members = 1

    def __init__(self, task: Task, contender: Contender, trial: Trial) -> None:
        self.task = task
        reseed_loaders(task, trial.seed)
        self.model = task.make_model(trial.seed)
        self.optimizer = contender.optimizer(self.model, trial.settings, task.roles)
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        set_training_mode(self.optimizer, True)
        rule = contender.thalweg_rule
        self.needs_closure = rule is not None and rule.traits.needs == "closure"
        self.passes_closure = rule is not None and rule.traits.needs in ("second gradient", "closure")
        self.curvature_interval = rule.traits.curvature_interval if rule and rule.traits.needs == "curvature" else 0
        self.batches = batches(task, trial.seed, full_batch=contender.full_batch)
        self.steps_done = 0

    def step(self, lr_factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * lr_factor
        self.model.train()
        batch = next(self.batches)
        if self.passes_closure:
            self.optimizer.step(lambda: float(self._backward(batch)))
        else:
            self._backward(batch)
            self.optimizer.step()
        self.steps_done += 1

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch, and its curvature where that is due; return the loss."""
        self.optimizer.zero_grad()
        loss = _checked(self.task, self.task.loss(self.model, batch))
        if self.curvature_interval and self.steps_done % self.curvature_interval == 0:
            assert isinstance(self.optimizer, RuleOptimizer)
            self.optimizer.estimate_curvature(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def keep(self, members: Sequence[int]) -> None:
        assert list(members) == [0]

    def evaluate(self, split: str) -> list[float]:
        return [float(self._measure(split).mean())]

    def test(self) -> list[tuple[float, float]]:
        groups = self._measure("test")
        return [(float(groups.mean()), float(groups.error()))]

    @torch.no_grad()
    def _measure(self, split: str) -> GroupMeans:
        self.model.eval()
        set_training_mode(self.optimizer, False)
        measure = self.task.measure(split)

        def measured(batch: Batch) -> Tensor:
            value: Any = measure(self.model, batch)
            # A metric may come from another library as a number; only a differentiated loss must be a tensor.
            if split != "train" and isinstance(value, int | float):
                value = torch.as_tensor(value)
            return _checked(self.task, value)

        groups = measure_in_groups(self.task, split, measured, GROUP_SIZE)
        set_training_mode(self.optimizer, True)
        return groups


@dataclass(frozen=True)
class _Part:
    """Neighbours in a population, and those of their parameters that share overrides."""

    members: slice
    overrides: GroupOverrides
    names: list[str]
    stepper: population.PopulationStepper


class PopulationRun:
    """Models that differ in seed, settings or contender, trained as one program under ``vmap``.

    Only the gradients are one program. Each contender steps its own members, which are neighbours in the stack.

    Args:
        task: A task for which ``why_not_population`` finds no reason.
        contenders: The contender of each member, or one for all; all have one ``population_key``.
        trials: Settings and seed of each member.
    """

    def __init__(self, task: Task, contenders: Contender | Sequence[Contender], trials: Sequence[Trial]) -> None:
        self.task = task
        self.members = len(trials)
        contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else list(contenders)
        self.rules = [contender.rule_at(trial.settings) for contender, trial in zip(contenders, trials, strict=True)]
        self.lrs = [rule.settings()["lr"] for rule in self.rules]
        assert len({contender.population_key for contender in contenders}) == 1
        models = [task.make_model(trial.seed) for trial in trials]
        self.model = models[0]
        reason = why_not_population(task, contenders[0], self.model)
        assert reason is None, reason
        params, self.buffers = stack_module_state(models)
        self.params = {name: param.detach() for name, param in params.items()}
        self.parts: list[_Part] = []
        for members in self._programs():
            for overrides, names in contenders[members.start].by_overrides(self.model, task.roles).items():
                rules = [overrides.apply_to(rule) for rule in self.rules[members]]
                part_params = {name: self.params[name][members] for name in names}
                self.parts.append(_Part(members, overrides, names, population.PopulationStepper(rules, part_params)))
        self.steps_done = 0
        self.lr_factor = 1.0
        self.gradient = vmap(grad(self._functional(task.loss)), in_dims=(0, 0, 0), randomness="different")
        self.full_batch = contenders[0].full_batch
        self.batches = stacked_batches(task, [trial.seed for trial in trials], full_batch=self.full_batch)
        self.batch_members: list[int] | None = None  # the members whose batches are used, after some were pruned

    def _programs(self) -> list[slice]:
        """Return the stretches of neighbours whose rules are one program."""
        shapes = [param.shape[1:] for param in self.params.values()]
        programs = [population.program_key(rule, shapes) for rule in self.rules]
        starts = [k for k in range(self.members) if k == 0 or programs[k] != programs[k - 1]]
        return [slice(start, end) for start, end in itertools.pairwise([*starts, self.members])]

    def _functional(self, measure: Measure) -> Callable[[Any, Any, Batch], Tensor]:
        """Return a measure as a function of parameters, buffers and batch."""
        objective = _Objective(self.model, measure)

        def measured(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
            weights = {f"model.{name}": value for name, value in (params | buffers).items()}
            return _checked(self.task, functional_call(objective, weights, (batch,)))

        return measured

    def step(self, lr_factor: float) -> None:
        self.model.train()
        batch = next(self.batches)
        if self.batch_members is not None:
            assert not isinstance(batch, dict), "a population's data are tuples"
            batch = tuple(tensor[self.batch_members] for tensor in batch)
        grads = self.gradient(self.params, self.buffers, batch)
        self.steps_done += 1
        if lr_factor != self.lr_factor:
            self.rules = [rule.with_(lr=lr * lr_factor) for rule, lr in zip(self.rules, self.lrs, strict=True)]
            self.lr_factor = lr_factor
        for part in self.parts:
            rules = [part.overrides.apply_to(rule) for rule in self.rules[part.members]]
            part.stepper.step(rules, {name: grads[name][part.members] for name in part.names}, self.steps_done)

    def keep(self, members: Sequence[int]) -> None:
        remaining = list(members)
        if self.full_batch:
            self.batches = stacked_batches(self.task, remaining, full_batch=True)
        elif self.batch_members is None:
            self.batch_members = remaining
        else:
            self.batch_members = [self.batch_members[k] for k in remaining]
        self.members = len(remaining)
        self.rules, self.lrs = [self.rules[k] for k in remaining], [self.lrs[k] for k in remaining]
        self.params = {name: param[remaining] for name, param in self.params.items()}
        self.buffers = {name: buffer[remaining] for name, buffer in self.buffers.items()}
        parts = []
        for part in self.parts:
            place = slice(*(sum(k < end for k in remaining) for end in (part.members.start, part.members.stop)))
            part_members = [k - part.members.start for k in remaining[place]]
            if part_members:
                part.stepper.keep(part_members, {name: self.params[name][place] for name in part.names})
                parts.append(replace(part, members=place))
        self.parts = parts

    def evaluate(self, split: str) -> list[float]:
        return [float(mean) for mean in self._measure(split).mean()]

    def test(self) -> list[tuple[float, float]]:
        groups = self._measure("test")
        return list(zip(groups.mean().tolist(), groups.error().tolist(), strict=True))

    @torch.no_grad()
    def _measure(self, split: str) -> GroupMeans:
        self.model.eval()
        measured = vmap(self._functional(self.task.measure(split)), in_dims=(0, 0, None), randomness="different")
        return measure_in_groups(
            self.task, split, lambda batch: measured(self.params, self.buffers, batch), GROUP_SIZE_OF_MEMBER
        )


def why_not_population(task: Task, contender: Contender, model: nn.Module) -> str | None:
    """Return why a task cannot be trained as a population, or None if no reason is known before it is tried.

    Args:
        task: The task.
        contender: The contender that trains it.
        model: A model of the task.
    """
    rule = contender.thalweg_rule
    if rule is None:
        return f"{contender.name} is no rule of thalweg's"
    if rule.traits.needs != "gradient":
        return f"{contender.name} needs more than one gradient a step: a {rule.traits.needs}"
    if rule.traits.has_eval_params:
        return f"{contender.name} is evaluated at other parameters than it trains"
    if any(part.traits.uses_random_numbers or not part.traits.supports_vmap for part in (rule, *rule.parts.values())):
        return f"{contender.name} takes steps that differ in more than numbers"
    return _why_not_stacked(task, model)


def _why_not_stacked(task: Task, model: nn.Module) -> str | None:
    if not task.splits.in_memory:
        return "the data come from a DataLoader"
    if not all(param.requires_grad for param in model.parameters()):
        return "a part of the model is frozen"
    if len({param.dtype for param in model.parameters()}) > 1:
        return "the parameters have several dtypes"
    return None


def _checked(task: Task, loss: Any) -> Tensor:
    """Return the loss; raise TaskError unless it is a 0-d tensor."""
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"{task.name}: the loss must be a 0-d tensor, got {got}. Take the mean over the batch.")
    return loss
