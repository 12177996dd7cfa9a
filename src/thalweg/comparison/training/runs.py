"""Runs: a training under way, of a single model or of a population.

Both have the same verbs (`step`, `evaluate`), so one loop trains either. A seed decides the initial weights and the
order of the data, whoever competes: trainings are paired by it.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.external import set_training_mode
from thalweg.engine import population
from thalweg.errors import TaskError
from thalweg.optim import RuleOptimizer
from thalweg.optim.routing import Treatment
from thalweg.rules import Rule
from thalweg.tasks import Batch, Task
from thalweg.tasks.data import as_batch, epochs_of_indices, examples_in
from thalweg.tasks.task import Measure

# Examples in a forward pass without gradients: more of them gain nothing, and convolutions fall out of the cache.
EVALUATED_TOGETHER = 256
EVALUATED_BY_MANY = 128  # for each member of a population
TEST_GROUPS = 24  # of test examples, whose means tell the standard error over examples

# vmap says that an operation has no fast form. The pilot measures what that costs, and acts on it.
warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")


@dataclass(frozen=True)
class Trial:
    """One training to be done: at these settings, from this seed."""

    settings: Settings
    seed: int


class Run(Protocol):
    """A training under way, of one model or of a population."""

    members: int

    def step(self, lr_factor: float) -> None:
        """Take one optimizer step, at this share of the learning rate."""

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members alone, at least one."""

    def evaluate(self, split: str) -> list[float]:
        """What is measured on this split, for each member."""

    def test(self) -> list[tuple[float, float]]:
        """What is measured on the test, for each member, with its standard error over the examples."""


class _Objective(nn.Module):
    """A measure and its model as one module, so that `functional_call` can put other weights in."""

    def __init__(self, model: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.model = model
        self.measure = measure

    def forward(self, batch: Batch) -> Tensor:
        return self.measure(self.model, batch)


class SingleRun:
    """One model, trained as its owner would: backward, then the optimizer's step."""

    members = 1

    def __init__(self, task: Task, contender: Contender, trial: Trial) -> None:
        self.task = task
        _reseed_loaders(task, trial.seed)
        self.model = task.make_model(trial.seed)
        self.optimizer = contender.optimizer(self.model, trial.settings, task.roles)
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        set_training_mode(self.optimizer, True)
        rule = contender.rule if isinstance(contender.rule, Rule) else None
        self.iterates = rule is not None and rule.traits.needs == "closure"
        self.calls_closures = rule is not None and rule.traits.needs in ("second gradient", "closure")
        estimates = rule is not None and rule.traits.needs == "curvature"
        self.curvature_interval = rule.traits.curvature_interval if rule and estimates else 0
        self.batches = _batches(task, contender, trial.seed)
        self.taken = 0

    def step(self, lr_factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * lr_factor
        self.model.train()
        batch = next(self.batches)
        if self.calls_closures:
            self.optimizer.step(lambda: float(self._backward(batch)))
        else:
            self._backward(batch)
            self.optimizer.step()
        self.taken += 1

    def _backward(self, batch: Batch) -> Tensor:
        """The loss of a batch, after its gradients are computed, and its curvature where that is due."""
        self.optimizer.zero_grad()
        loss = _checked(self.task, self.task.loss(self.model, batch))
        if self.curvature_interval and self.taken % self.curvature_interval == 0:
            assert isinstance(self.optimizer, RuleOptimizer)
            self.optimizer.estimate_curvature(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def keep(self, members: Sequence[int]) -> None:
        assert list(members) == [0]

    def evaluate(self, split: str) -> list[float]:
        return [float(self._groups(split, EVALUATED_TOGETHER).mean())]

    def test(self) -> list[tuple[float, float]]:
        groups = self._groups("test", EVALUATED_TOGETHER)
        return [(float(groups.mean()), float(groups.error()))]

    @torch.no_grad()
    def _groups(self, split: str, together: int) -> "_Groups":
        self.model.eval()
        set_training_mode(self.optimizer, False)
        measure = self.task.measure(split)

        def measured(batch: Batch) -> Tensor:
            value = measure(self.model, batch)
            # Only what is differentiated must be a tensor: a metric may come from elsewhere as a number.
            value = torch.as_tensor(value) if split != "train" and isinstance(value, int | float) else value
            return _checked(self.task, value)

        found = _measured_in_groups(self.task, split, measured, together)
        set_training_mode(self.optimizer, True)
        return found


@dataclass(frozen=True)
class _Part:
    """Neighbours in a population, and those of their parameters that are treated alike."""

    members: slice
    treatment: Treatment
    names: list[str]
    population: population.PopulationStepper


class PopulationRun:
    """Models that differ in seed, settings or contender, trained as one program under `vmap`.

    Only the gradients are one program: each contender steps its own members, which stand side by side in the stack.
    """

    def __init__(self, task: Task, contender: Contender | Sequence[Contender], trials: Sequence[Trial]) -> None:
        self.task = task
        self.members = len(trials)
        contenders = [contender] * len(trials) if isinstance(contender, Contender) else list(contender)
        self.rules = [one.rule_at(trial.settings) for one, trial in zip(contenders, trials, strict=True)]
        self.lrs = [rule.settings()["lr"] for rule in self.rules]
        assert len({one.population_key for one in contenders}) == 1
        models = [task.make_model(trial.seed) for trial in trials]
        self.model = models[0]
        reason = why_not_population(task, contenders[0], self.model)
        assert reason is None, reason
        params, self.buffers = stack_module_state(models)
        self.params = {name: param.detach() for name, param in params.items()}
        self.parts: list[_Part] = []
        for members in self._parts():
            for treatment, names in contenders[members.start].treatments(self.model, task.roles).items():
                rules = [treatment.of(rule) for rule in self.rules[members]]
                own = {name: self.params[name][members] for name in names}
                self.parts.append(_Part(members, treatment, names, population.PopulationStepper(rules, own)))
        self.taken = 0
        self.lr_factor = 1.0
        self.gradient = vmap(grad(self._measured(task.loss)), in_dims=(0, 0, 0), randomness="different")
        self.full_batch = contenders[0].full_batch
        self.batches = _stacked_batches(task, self.full_batch, [trial.seed for trial in trials])
        self.drawn_for: list[int] | None = None  # the members whose batches are wanted, once some were given up

    def _parts(self) -> list[slice]:
        """Stretches of neighbours whose rules are one program."""
        shapes = [param.shape[1:] for param in self.params.values()]
        programs = [population.program_key(rule, shapes) for rule in self.rules]
        starts = [k for k in range(self.members) if k == 0 or programs[k] != programs[k - 1]]
        return [slice(start, end) for start, end in itertools.pairwise([*starts, self.members])]

    def _measured(self, measure: Measure) -> Callable[[Any, Any, Batch], Tensor]:
        objective = _Objective(self.model, measure)

        def measured(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
            weights = {f"model.{name}": value for name, value in (params | buffers).items()}
            return _checked(self.task, functional_call(objective, weights, (batch,)))

        return measured

    def step(self, lr_factor: float) -> None:
        self.model.train()
        batch = next(self.batches)
        if self.drawn_for is not None:
            assert not isinstance(batch, dict), "a population's data are tuples"
            batch = tuple(tensor[self.drawn_for] for tensor in batch)
        grads = self.gradient(self.params, self.buffers, batch)
        self.taken += 1
        if lr_factor != self.lr_factor:
            self.rules = [rule.with_(lr=lr * lr_factor) for rule, lr in zip(self.rules, self.lrs, strict=True)]
            self.lr_factor = lr_factor
        for part in self.parts:
            rules = [part.treatment.of(rule) for rule in self.rules[part.members]]
            part.population.step(rules, {name: grads[name][part.members] for name in part.names}, self.taken)

    def keep(self, members: Sequence[int]) -> None:
        kept = list(members)
        if self.full_batch:
            self.batches = _stacked_batches(self.task, self.full_batch, kept)
        else:
            self.drawn_for = kept if self.drawn_for is None else [self.drawn_for[k] for k in kept]
        self.members = len(kept)
        self.rules, self.lrs = [self.rules[k] for k in kept], [self.lrs[k] for k in kept]
        self.params = {name: param[kept] for name, param in self.params.items()}
        self.buffers = {name: buffer[kept] for name, buffer in self.buffers.items()}
        parts = []
        for part in self.parts:
            now = slice(*(sum(k < end for k in kept) for end in (part.members.start, part.members.stop)))
            own = [k - part.members.start for k in kept[now]]
            if own:
                part.population.keep(own, {name: self.params[name][now] for name in part.names})
                parts.append(replace(part, members=now))
        self.parts = parts

    def evaluate(self, split: str) -> list[float]:
        return [float(mean) for mean in self._groups(split).mean()]

    def test(self) -> list[tuple[float, float]]:
        groups = self._groups("test")
        return list(zip(groups.mean().tolist(), groups.error().tolist(), strict=True))

    @torch.no_grad()
    def _groups(self, split: str) -> "_Groups":
        self.model.eval()
        measured = vmap(self._measured(self.task.measure(split)), in_dims=(0, 0, None), randomness="different")
        return _measured_in_groups(
            self.task, split, lambda batch: measured(self.params, self.buffers, batch), EVALUATED_BY_MANY
        )


def why_not_population(task: Task, contender: Contender, model: nn.Module) -> str | None:
    """Why a task cannot be trained as a population, as far as can be told before trying; None if it may."""
    if not isinstance(contender.rule, Rule):
        return f"{contender.name} is no rule of thalweg's"
    if contender.rule.traits.needs != "gradient":
        return f"{contender.name} needs more than one gradient a step: a {contender.rule.traits.needs}"
    if contender.rule.traits.has_eval_params:
        return f"{contender.name} is evaluated at other parameters than it trains"
    if any(
        rule.traits.uses_random_numbers or not rule.traits.supports_vmap
        for rule in (contender.rule, *contender.rule.parts.values())
    ):
        return f"{contender.name} takes steps that differ in more than numbers"
    if not task.splits.in_memory:
        return "the data come from a DataLoader"
    if not all(param.requires_grad for param in model.parameters()):
        return "a part of the model is frozen"
    if len({param.dtype for param in model.parameters()}) > 1:
        return "the parameters have several dtypes"
    return None


def _checked(task: Task, loss: Any) -> Tensor:
    """The loss, if it is a 0-d tensor."""
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"{task.name}: the loss must be a 0-d tensor, got {got}. Take the mean over the batch.")
    return loss


def _batches(task: Task, contender: Contender, seed: int) -> Iterator[Batch]:
    """Training batches without end, the same for the same seed."""
    train = task.split("train")
    if train is None:
        return itertools.repeat(())
    if not isinstance(train, tuple):
        assert not contender.full_batch, "refused when its horizon was made"
        return _loaded(task, train)
    if contender.full_batch:
        return itertools.repeat(train)
    indices = epochs_of_indices(len(train[0]), min(task.batch_size, len(train[0])), [seed])
    return (tuple(tensor[index[0]] for tensor in train) for index in indices)


def _stacked_batches(task: Task, full_batch: bool, seeds: Sequence[int]) -> Iterator[Batch]:
    """Training batches without end for all members of a population, one member's after the other's in front."""
    train = task.split("train")
    if train is None:
        return itertools.repeat(())
    assert isinstance(train, tuple), "a population's data are in memory"
    if full_batch:
        return itertools.repeat(tuple(tensor.expand(len(seeds), *tensor.shape) for tensor in train))
    # One lookup for all members: as many as there are would take longer than the forward pass.
    indices = epochs_of_indices(len(train[0]), min(task.batch_size, len(train[0])), seeds)
    return (tuple(tensor[index] for tensor in train) for index in indices)


def _loaded(task: Task, loader: Iterable[Any]) -> Iterator[Batch]:
    for _ in itertools.count():
        for batch in loader:
            yield as_batch(task.name, batch)


def _reseed_loaders(task: Task, seed: int) -> None:
    """Start the generators that loaders hold of their own from the seed; the others follow torch's random state."""
    for name in ("train", "validation", "test"):
        for holder in (task.split(name), getattr(task.split(name), "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)


@dataclass(frozen=True)
class _Groups:
    """What is measured on groups of examples: how many there are in each, and a row of means."""

    sizes: Tensor
    means: Tensor

    def mean(self) -> Tensor:
        """Over all examples."""
        return (self._weights() * self.means).sum(0)

    def error(self) -> Tensor:
        """The standard error of the mean, from how the groups differ; not a number where there is one alone."""
        if len(self.sizes) < 2:
            return torch.full_like(self.mean(), torch.nan)
        squares = (self._weights() * (self.means - self.mean()).square()).sum(0)
        return (squares / (len(self.sizes) - 1)).sqrt()

    def _weights(self) -> Tensor:
        shape = (-1, *[1] * (self.means.dim() - 1))
        return (self.sizes / self.sizes.sum()).to(self.means).reshape(shape)


def _measured_in_groups(task: Task, split: str, measure: Callable[[Batch], Tensor], together: int) -> _Groups:
    """What is measured on a split, batch by batch; on the test, by enough of them to tell how much they differ."""
    data = task.split(split)
    if data is None:
        return _Groups(torch.ones(1), measure(()).unsqueeze(0))
    if isinstance(data, tuple):
        if split == "test":
            together = max(1, min(together, len(data[0]) // TEST_GROUPS))
        batches: Iterable[Batch] = zip(*(tensor.split(together) for tensor in data), strict=True)
    else:
        batches = (as_batch(task.name, batch) for batch in data)
    weighted = [(examples_in(batch), measure(batch)) for batch in batches]
    return _Groups(torch.tensor([size for size, _ in weighted]), torch.stack([mean for _, mean in weighted]))
