"""Population: many models of one task that train as one program.

Each member trains as a ``SingleRun`` of its trial would: the same initial weights, batches and rule.
"""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.training.computation.batches import StackedBatches
from thalweg.comparison.training.computation.group_means import GroupMeans, groups_of_sizes, measure_in_groups
from thalweg.comparison.training.computation.step_gradients import checked_loss
from thalweg.comparison.training.computation.work import CountWork, Work
from thalweg.comparison.training.runs import Trial
from thalweg.engine import population
from thalweg.engine.core import devices
from thalweg.engine.graphs import GraphCache, capture_for
from thalweg.engine.scalars.population import MAX_LOADED
from thalweg.optim.routing import GroupOverrides
from thalweg.rules import Rule
from thalweg.tasks import Batch, Task
from thalweg.tasks.supervised import Measure

GROUP_SIZE = 128  # examples of a member in a forward pass without gradients, as many as fit the cache

# vmap warns of an operation without a fast form. The pilot measures what that costs, and acts on it.
warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")


class _Objective(nn.Module):
    """A measure and its model as one module, so that ``functional_call`` can substitute the weights."""

    def __init__(self, model: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.model = model
        self.measure = measure

    def forward(self, batch: Batch) -> Tensor:
        return self.measure(self.model, batch)


@dataclass(frozen=True)
class _RuleAt:
    """Returns a rule of the whole model as it is for some parameters, at a share of the learning rate."""

    overrides: GroupOverrides

    def __call__(self, rule: Rule, lr_factor: Any) -> Rule:
        return self.overrides.apply_to(rule.with_(lr=rule.settings()["lr"] * lr_factor))


@dataclass(frozen=True)
class _Part:
    """Neighbours in a population, and those of their parameters that share overrides."""

    members: slice
    overrides: GroupOverrides
    names: list[str]
    stepper: population.PopulationStepper

    def own_rules(self, rules: Sequence[Rule]) -> list[Rule]:
        """Return the rules of these members for these parameters, given those of all members."""
        return [self.overrides.apply_to(rule) for rule in rules[self.members]]

    def own_grads(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of the stacked gradients that belongs here."""
        return {name: grads[name][self.members] for name in self.names}


class PopulationRun:
    """Models that differ in seed, settings or contender, trained as one program under ``vmap``.

    Only the gradients are one program. Each contender steps its own members, which are neighbours in the stack.

    On a device, everything that a step reads is there: data, order of the examples, scalars, counters. So a step is
    captured as a graph and replayed, and the host waits only for losses. On the CPU kernels take the steps.

    Args:
        task: A task for which ``why_not_population`` finds no reason.
        contenders: The contender of each member, or one for all; all have one ``population_key``.
        trials: Settings and seed of each member.
        graphs: Runs the steps and evaluations. Defaults to graphs on a CUDA device, and to functions on others. With
            ``GraphCache(None)`` nothing is captured.
    """

    def __init__(
        self,
        task: Task,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        graphs: GraphCache | None = None,
    ) -> None:
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
        self.device = next(iter(self.params.values())).device
        self._on_device = graphs is not None or self.device.type != "cpu"
        self._graphs = graphs or GraphCache(capture_for(self.device))
        self.parts: list[_Part] = []
        for members in self._programs():
            for overrides, names in contenders[members.start].by_overrides(self.model, task.roles).items():
                rules = [overrides.apply_to(rule) for rule in self.rules[members]]
                part_params = {name: self.params[name][members] for name in names}
                stepper = population.PopulationStepper(rules, part_params, on_device=self._on_device)
                self.parts.append(_Part(members, overrides, names, stepper))
        self.steps_done = 0
        self.lr_factor = 1.0
        self.gradient = vmap(grad(self._functional(task.loss)), in_dims=(0, 0, 0), randomness="different")
        self.batches = StackedBatches(
            task, [trial.seed for trial in trials], full_batch=contenders[0].full_batch, device=self.device
        )
        self._measurements: dict[tuple[str, str], GroupMeans] = {}  # by split and metric, on a device; the last one

    @property
    def execution(self) -> str:
        if not self._on_device:
            return ""
        return "replayed as a graph" if self._graphs.why_eager is None else f"eager, as {self._graphs.why_eager}"

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
            value = functional_call(objective, weights, (batch,))
            return checked_loss(self.task, value, None if measure is self.task.loss else measure)

        return measured

    @property
    def device_type(self) -> str:
        return self.device.type

    def advance(self, lr_factors: Sequence[float]) -> None:
        if not self._on_device:
            for lr_factor in lr_factors:
                self.step(lr_factor)
            return
        for start in range(0, len(lr_factors), MAX_LOADED):
            chunk = lr_factors[start : start + MAX_LOADED]
            for part in self.parts:
                part.stepper.load_schedule(
                    self.rules[part.members], chunk, self.steps_done + 1, _RuleAt(part.overrides)
                )
            for _ in chunk:
                size = self.batches.begin()
                self._graphs.call(("step", size), partial(self._step_loaded, size))
                self.steps_done += 1

    def step(self, lr_factor: float) -> None:
        if self._on_device:
            self.advance([lr_factor])
            return
        grads = self._compute_gradients()
        self.steps_done += 1
        rules = self._rules_at(lr_factor)
        for part in self.parts:
            part.stepper.step(part.own_rules(rules), part.own_grads(grads), self.steps_done)

    def count_work(self) -> Work:
        """Return the work of the gradients of all members on their next batches; no step is taken."""
        with CountWork() as counter:
            self._compute_gradients()
        return counter.work

    def _compute_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of all members on their next batches."""
        self.model.train()
        grads: dict[str, Tensor] = self.gradient(self.params, self.buffers, self.batches.take(self.batches.begin()))
        return grads

    def _step_loaded(self, size: int) -> None:
        """Take a step whose scalars and order of examples are on the device, with this number of examples."""
        self.model.train()
        grads = self.gradient(self.params, self.buffers, self.batches.take(size))
        for part in self.parts:
            part.stepper.step_loaded(part.own_grads(grads))

    def _rules_at(self, lr_factor: float) -> list[Rule]:
        if lr_factor != self.lr_factor:
            self.rules = [rule.with_(lr=lr * lr_factor) for rule, lr in zip(self.rules, self.lrs, strict=True)]
            self.lr_factor = lr_factor
        return self.rules

    def synchronize(self) -> None:
        devices.synchronize(self.device)

    def keep(self, members: Sequence[int]) -> None:
        remaining = list(members)
        self._graphs.clear()  # they hold the memory of all members
        self._measurements.clear()
        self.batches.keep(remaining)
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
        return self.evaluate_all([split])[0]

    def evaluate_all(self, splits: Sequence[str]) -> list[list[float]]:
        return [groups.mean().tolist() for groups in self._measure([(split, "") for split in splits])]

    def test(self) -> list[tuple[float, float]]:
        (groups,) = self._measure([("test", "")])
        return list(zip(groups.mean().tolist(), groups.error().tolist(), strict=True))

    def metrics(self) -> list[dict[str, float]]:
        if not self.task.metrics:
            return [{} for _ in range(self.members)]
        measured = self._measure([("test", name) for name in self.task.metrics])
        columns = zip(*(groups.mean().tolist() for groups in measured), strict=True)
        return [dict(zip(self.task.metrics, column, strict=True)) for column in columns]

    @torch.no_grad()
    def _measure(self, quantities: Sequence[tuple[str, str]]) -> list[GroupMeans]:
        """Return the means of each quantity, a split and a metric, on the host. The device is waited for once."""
        self.model.eval()
        if not self._on_device:
            return [
                measure_in_groups(self.task, split, self._measured(split, metric), GROUP_SIZE, metric)
                for split, metric in quantities
            ]
        for quantity in quantities:
            self._graphs.call(("measure", *quantity), partial(self._measure_on_device, quantity))
        measured = [self._measurements[quantity] for quantity in quantities]
        joined = torch.cat([groups.means for groups in measured]).cpu()
        parts = torch.split(joined, [len(groups.means) for groups in measured])
        # A metric may have another dtype than the loss.
        return [
            replace(groups, means=part.to(groups.means.dtype)) for groups, part in zip(measured, parts, strict=True)
        ]

    def _measured(self, split: str, metric: str) -> Callable[[Batch], Tensor]:
        """Return the measure of all members as a function of a batch."""
        measure = self._functional(self.task.measure(split, metric))
        measured = vmap(measure, in_dims=(0, 0, None), randomness="different")
        return lambda batch: measured(self.params, self.buffers, batch)

    def _measure_on_device(self, quantity: tuple[str, str]) -> None:
        """Measure a split into memory that stays in place."""
        split, metric = quantity
        measured = self._measured(split, metric)
        if quantity not in self._measurements:  # in the first call, which is never captured
            self._measurements[quantity] = measure_in_groups(self.task, split, measured, GROUP_SIZE, metric)
            return
        sizes, means = self._measurements[quantity].sizes, self._measurements[quantity].means
        means.copy_(torch.stack([measured(group) for group in groups_of_sizes(self.task, split, sizes)]))


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
    if any(tunable.search and not tunable.search.values for tunable in contender.task_settings.values()):
        return "numbers of the task differ from training to training"
    if rule.traits.needs != "gradient":
        return f"{contender.name} needs more than one gradient a step: a {rule.traits.needs}"
    if rule.traits.has_eval_params:
        return f"{contender.name} is evaluated at other parameters than it trains"
    if any(part.traits.uses_random_numbers or not part.traits.supports_vmap for part in (rule, *rule.parts.values())):
        return f"{contender.name} takes steps that differ in more than numbers"
    return _why_not_stacked(task, model)


def _why_not_stacked(task: Task, model: nn.Module) -> str | None:
    if task.accumulate > 1:
        return "a step accumulates the gradients of several batches"
    if task.precision is not None:
        return f"it trains in {task.precision} by autocast"
    if not task.splits.in_memory:
        return "the data come from a DataLoader"
    if not all(param.requires_grad for param in model.parameters()):
        return "a part of the model is frozen"
    if len({param.dtype for param in model.parameters()}) > 1:
        return "the parameters have several dtypes"
    return None
