"""Optimizer requests: ``make_optimizer``, as a training function gets it, and what is learnt of the optimizers made.

A training function may do anything with its optimizer. So nothing is assumed: the settings of the groups are read at
steps and reports, more and more rarely, and stored. Two trainings whose trials differ in a setting, and which used the
same values of it, did not use it, from the beginning (``results/functions/unused_settings.py``) or from a moment on
(``late_settings.py`` there).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import nn

from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings
from thalweg.comparison.contenders.schedule import lr_factor
from thalweg.comparison.training.functions.call_site import CallSite, line_of_user
from thalweg.comparison.training.functions.closure_steps import accept_closures
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.functions.parameter_groups import is_groups, resolve_groups
from thalweg.errors import SettingError, TaskError
from thalweg.optim import RuleOptimizer
from thalweg.optim.settings import keywords
from thalweg.tasks.files import FILE_MODULE
from thalweg.tasks.user_code import task_error

_NAME = re.compile(r"[A-Za-z_]\w*")


class OptimizerRequests:
    """``make_optimizer`` of one training.

    Args:
        who: The name of the training function, for messages.
        contender: The contender that trains.
        settings: The settings of the trial.
        schedule: The learning rate schedule of optimizers that are requested with a scheduler.
        before_step: Called before each step of each optimizer. Then every name of an optimizer is accepted.
        line: The user's line that defines the function, for messages.
    """

    def __init__(
        self,
        who: str,
        contender: Contender,
        settings: Settings,
        *,
        schedule: str = "constant",
        before_step: Callable[..., None] | None = None,
        line: str = "",
    ) -> None:
        self._before_step = before_step
        self._who, self._contender, self._settings = who, contender, settings
        self._schedule, self._line = schedule, line
        self._watched: list[_WatchedOptimizer] = []
        self._reports = 0

    def __call__(
        self,
        params: nn.Module | Iterable[Any] | None = None,
        /,
        roles: Mapping[str, str] | None = None,
        *,
        model: nn.Module | None = None,
        name: str = "",
        lr: float | None = None,
        scheduler: bool = False,
        steps: int | None = None,
    ) -> Any:
        """Make an optimizer of the contender, at the settings of the trial.

        Args:
            params: The model; or its parameters; or groups of them, as dictionaries. A group's own settings stay. Its
                ``"lr_scale"`` is the share of the trial's learning rate that it gets. Its ``"lr"`` counts as a ratio
                too: to ``lr``, or else to the learning rate of the first group.
            roles: Roles of parameters by name, for a contender that routes.
            model: The model of these parameters or groups, for a contender that routes, such as ``muon+adamw``.
            name: A name, if the training has several optimizers. Each name has settings of its own.
            lr: The learning rate to which those of the groups are ratios.
            scheduler: True to get the learning rate schedule of the comparison, too.
            steps: How often ``scheduler.step()`` will be called.

        Returns:
            The optimizer; with ``scheduler=True`` the pair of optimizer and scheduler.

        Raises:
            SettingError: If an argument is wrong; the message names the line of the call.
        """
        site = CallSite.of_caller()
        who = f"{self._who}: make_optimizer{site.place}"
        self._check(who, name, lr, scheduler, steps)
        params = model if params is None else params
        if params is None or (model is not None and not isinstance(model, nn.Module)):
            got = "no argument" if params is None else f"model={type(model).__name__}"
            raise SettingError(f"{who}: it must get the model, its parameters or groups of them, got {got}.")
        own = self._contender.own_settings(self._settings, name)
        member = self._contender.member(name)
        trial_lr = float(member.rule.with_(**own).settings()["lr"])
        lr_scales: list[float] = []
        entries: Any = params
        if isinstance(params, nn.Module) and model not in (None, params):  # a part of the model
            entries = [param for param in params.parameters() if param.requires_grad]
        elif isinstance(params, Iterable) and not isinstance(params, nn.Module | torch.Tensor | Mapping | str):
            entries = list(params)
            if is_groups(entries):
                entries, lr_scales = resolve_groups(who, entries, trial_lr, lr)
        if lr is not None and not lr_scales:
            raise SettingError(
                f"{who}: lr must come with groups of parameters that have an lr of their own, got {lr!r} without. "
                "The learning rate is that of the trial. Remove lr."
            )
        optimizer = self._contender.optimizer(entries, self._settings, roles, name=name, whole=model)
        self._watched.append(
            _WatchedOptimizer(self._contender, optimizer, own, name, site, lr_scales, isinstance(params, nn.Module))
        )
        if isinstance(optimizer, torch.optim.Optimizer):
            accept_closures(optimizer)
        if self._before_step is not None and isinstance(optimizer, torch.optim.Optimizer):
            optimizer.register_step_pre_hook(self._before_step)
        if not scheduler:
            return optimizer
        assert steps is not None
        pair = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(member.schedule or self._schedule, min(step, steps), steps)
        )
        self._watched[-1].scheduled(pair, steps)
        return optimizer, pair

    __call__.__qualname__ = "make_optimizer"  # as Python's messages name it

    def _check(self, who: str, name: str, lr: float | None, scheduler: bool, steps: int | None) -> None:
        if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
            raise SettingError(f"{who}: name must be a word, such as 'd', got {name!r}.")
        if name and self._before_step is None and name not in self._contender.optimizer_names:
            raise TaskError(
                f"{who}: the name of an optimizer must be known before the first step, got {name!r} after it. "
                f"Write it out in the training function, name={name!r}, or make the optimizer at the beginning."
            )
        if lr is not None and not (isinstance(lr, int | float) and lr > 0):
            raise SettingError(f"{who}: lr must be > 0, the learning rate without a factor, got {lr!r}.")
        if scheduler != (steps is not None) or (steps is not None and (not isinstance(steps, int) or steps < 1)):
            raise SettingError(
                f"{who}: a scheduler needs the number of its steps, got scheduler={scheduler!r} and steps={steps!r}. "
                "Write optimizer, scheduler = make_optimizer(model, scheduler=True, steps=1000), with the number of "
                "times that you call scheduler.step()."
            )

    def observe_report(self) -> None:
        """Read the groups at a report: at the first, second, fourth, eighth..."""
        self._reports += 1
        if self._reports & (self._reports - 1) == 0:
            for watched in self._watched:
                watched.observe(f"report {self._reports}")

    def finish(self) -> None:
        """Read the groups at the end of a training that was not stopped.

        Raises:
            TaskError: If the function made no optimizer, or never stepped a scheduler.
        """
        if not self._watched:  # it trained with an optimizer of its own
            condition = "the function must call make_optimizer(model), and did not"
            raise task_error(self._who, condition, "", "Train with the optimizer that it returns.", where=self._line)
        for watched in self._watched:
            if watched.scheduler is not None and watched.scheduler.last_epoch == 0:
                raise TaskError(
                    f"{self._who}: scheduler.step() must be called after each step of the optimizer, and never was "
                    f"(make_optimizer{watched.site.place})."
                )
        for watched in self._watched:
            watched.observe("end")

    def uses(self) -> list[OptimizerUse]:
        """Return what is known of each optimizer that was made."""
        return [watched.use() for watched in self._watched]


def next_observation(step: int) -> int:
    """Return the step after this one at which the groups are read: the next of 1, 2, 3, 4, 6, 8, 12, 16, 24...

    So a million steps are read 40 times, and the last time after two thirds of a training at the earliest.

    Args:
        step: A step at which they were read.
    """
    return step + max(1, (1 << (step.bit_length() - 1)) >> 1)


class _WatchedGroup(dict[str, Any]):
    """A parameter group that knows which lines of the user's code set a key: first, and first since it was read."""

    lines: dict[str, str] | None = None  # None while a copy is made
    recent: dict[str, str]

    def __setitem__(self, key: str, value: Any) -> None:
        if self.lines is not None and key not in self.recent:
            self.recent[key] = line_of_user()
            self.lines.setdefault(key, self.recent[key])
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, value: Any) -> Self:  # type: ignore[override,misc]  # as dict's
        self.update(value)
        return self


class _WatchedOptimizer:
    """An optimizer that a training function got, and the settings of its groups as the function uses them."""

    def __init__(
        self,
        contender: Contender,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        name: str,
        site: CallSite,
        lr_scales: list[float],
        takes_model: bool,
    ) -> None:
        self.site = site
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self._optimizer, self._name, self._lr_scales = optimizer, name, lr_scales
        self._takes_model = takes_model
        self._schedule_steps: int | None = None
        searched = contender.space(MAX_ORDER).keys()
        prefix = f"{name}." if name else ""
        rule = contender.member(name).rule.with_(**settings)
        self._places = {  # of each searched setting in a group: its keyword, and its number in a tuple
            setting: (keyword, None if names == [keyword] else number)
            for keyword, names in keywords.names_by_keyword(rule.hypers()).items()
            for number, setting in enumerate(names)
            if prefix + setting in searched
        }
        self._trial = {setting: float(rule.settings()[setting]) for setting in self._places}
        self._values: dict[str, dict[str, list[float]]] = {setting: {} for setting in self._places}
        self._lines: dict[str, str] = {}
        self._recent_lines: dict[str, str] = {}  # emptied whenever the groups are read: to know a line takes time
        self._last_lines: dict[str, str] = {}
        self._watch_lines()
        self._steps, self._next_step = 0, 1
        if isinstance(optimizer, torch.optim.Optimizer):
            optimizer.register_step_pre_hook(self._before_step)

    def _watch_lines(self) -> None:
        """Learn which lines of the user's code change the groups."""
        # An optimizer of another library may hold its groups elsewhere, too.
        module = type(self._optimizer).__module__
        known = module.partition(".")[0] in ("thalweg", "torch") and not module.startswith(FILE_MODULE)
        if isinstance(self._optimizer, RuleOptimizer) or known:
            groups = [_WatchedGroup(group) for group in self._optimizer.param_groups]
            for group in groups:
                group.lines, group.recent = self._lines, self._recent_lines
            self._optimizer.param_groups[:] = groups

    def scheduled(self, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
        """Note the scheduler that the training function got."""
        self.scheduler, self._schedule_steps = scheduler, steps
        self._lines.clear()  # this scheduler has set the learning rates
        self._recent_lines.clear()

    def _before_step(self, *_: Any) -> None:
        self._steps += 1
        if self._steps == self._next_step:
            self._next_step = next_observation(self._steps)
            self.observe(f"step {self._steps}")

    def observe(self, moment: str) -> None:
        """Read the searched settings of each group."""
        self._last_lines |= self._recent_lines
        self._recent_lines.clear()
        for setting, (keyword, number) in self._places.items():
            entries: list[Any] = [group.get(keyword) for group in self._optimizer.param_groups]
            if all(entry is not None for entry in entries):
                self._values[setting][moment] = [float(entry if number is None else entry[number]) for entry in entries]

    def use(self) -> OptimizerUse:
        """Return what is known by now. Settings that are those of the trial all the time are left out."""
        changed = {
            setting: values
            for setting, values in self._values.items()
            if any(value != self._trial[setting] for moment in values.values() for value in moment)
        }
        first, last = (
            {setting: line for setting in changed if (line := lines.get(self._places[setting][0], ""))}
            for lines in (self._lines, self._last_lines | self._recent_lines)
        )
        return OptimizerUse(
            name=self._name,
            line=self.site.line,
            argument=self.site.argument,
            takes_model=self._takes_model,
            model=self.site.model,
            lr_scales=self._lr_scales,
            schedule_steps=self._schedule_steps,
            changed=changed,
            changed_at=first,
            last_changed_at=last,
            steps=self._steps,
        )
