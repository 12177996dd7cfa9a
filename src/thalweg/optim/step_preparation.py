"""Step preparation: the groups, gradients and state of an optimizer become steps that the engine runs.

What is read from groups and state is cached, and read again whenever it is missing or has changed.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache, cached_property, partial
from operator import attrgetter, is_not
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine.backends import Backend
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.bindings import Bindings, GroupBindings, ProgramFor, UnknownParameterError
from thalweg.optim.parameter_checks import check_rounding
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import schedule_conflict

_GRAD = attrgetter("grad")  # faster in a map than a comprehension


class StepPreparation(torch.optim.Optimizer):
    """The private half of `RuleOptimizer`: it prepares steps and takes none."""

    rule: ClassVar[Rule]
    _backend: Backend | None

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _prepare_steps(self, occurrence: int = 1) -> list[tuple[Binding, BatchStep]]:
        """Return the step of each batch of parameters that have a gradient.

        Args:
            occurrence: With 2, only parameters that a group has twice take a step, and so on.
        """
        self._follow_state()
        if self.rule.traits.needs == "curvature":
            self._check_curvature()
        return [pair for number in range(len(self.param_groups)) for pair in self._prepare_group(number, occurrence)]

    def _prepare_group(self, number: int, occurrence: int = 1) -> list[tuple[Binding, BatchStep]]:
        group = self.param_groups[number]
        params, program_for = group["params"], self._program_for(number)
        if self._bindings.has_duplicates:
            params = self._distinct(params, occurrence)
        # Before the gradients are read: the check of the bindings prefetches the parameters' memory, many at a time.
        bindings = self._bindings.valid(params, program_for)
        grads = list(map(_GRAD, params))
        if not all(map(partial(is_not, None), grads)):
            params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
            grads = [grad for grad in grads if grad is not None]
            bindings = None
        if not params:
            return []
        if bindings is None:
            bindings = self._bind(params, program_for)
        steps = []
        for binding, indices in bindings:
            batch_grads = grads if len(indices) == len(grads) else [grads[index] for index in indices]
            steps.append((binding, binding.step(program_for(binding.dtype), batch_grads, group.get("seed", 0))))
        return steps

    def _distinct(self, params: list[Tensor], occurrence: int = 1) -> list[Tensor]:
        """Return the parameters of a group that it has `occurrence` times or more, once each."""
        if not self._bindings.has_duplicates:
            return params
        return [param for param, times in Counter(params).items() if times >= occurrence]

    def _check_curvature(self) -> None:
        """Raise ParameterError at the first step of an optimizer that was never given an estimate of curvature."""
        # An estimate creates the state, with a step count of 0. Later parameters may wait for the next estimate.
        if any("step" in record for record in self.state.values()):
            return
        if any(param.grad is not None for group in self.param_groups for param in group["params"]):
            interval = self.rule.traits.curvature_interval
            every = "step" if interval == 1 else f"{interval} steps"
            raise ParameterError(
                f"{self._who}: the first step needs an estimate of curvature, got none. Call "
                f"optimizer.estimate_curvature(loss) before loss.backward(), from the first step on, every {every}."
            )

    def _follow_state(self) -> None:
        if self._bindings.state is not self.state:
            self._discard_cache()  # the user has replaced the whole state
        self._bindings.follow_state()

    def _bind(self, params: list[Tensor], program_for: ProgramFor) -> GroupBindings:
        try:
            return self._bindings.get_or_create(params, program_for, self._backend)
        except UnknownParameterError:  # the user has put another parameter into the group
            self._discard_cache()
            return self._bindings.get_or_create(params, program_for, self._backend)

    def _program_for(self, number: int, *, ahead: int = 1) -> ProgramFor:
        """Return a function from a dtype to the program of a group at its present settings.

        Args:
            number: The number of the group.
            ahead: 1 for the program of the next step, 0 for that of the last one.
        """
        group = self.param_groups[number]
        settings = keywords.settings(self.rule, group)
        step = self._step_count(group["params"]) + ahead if self.rule.traits.varies_by_step else 0
        key = (settings, group["maximize"], group.get("rounding", "nearest"), group.get("seed", 0), step)
        if not self._is_current(number, key):
            group |= keywords.check_common(self.rule, group)
            maximize, rounding = group["maximize"], group.get("rounding", "nearest")
            rule = self.rule.with_(**settings)
            if self.defaults.get("differentiable"):
                rule = rule.with_(**keywords.settings_with_gradient(self.rule, group))
            rule = rule.for_step(step)
            if rule.traits.replaces_lr_schedule and "lr" in settings:
                self._highest_lrs[number] = highest = max(settings["lr"], self._highest_lrs.get(number, 0.0))
                if message := schedule_conflict(rule, highest, settings["lr"]):
                    self._warnings.warn("schedule", message)

            @cache
            def program(dtype: torch.dtype) -> Program:
                check_rounding(self._who, rounding, dtype)
                return Program(rule, maximize, precision.effective_rounding(rounding, dtype))

            self._programs[number] = key, program
        return self._programs[number][1]

    def _is_current(self, number: int, key: tuple[Any, ...]) -> bool:
        """Return True if the program of a group was made from these settings."""
        try:
            return number in self._programs and self._programs[number][0] == key
        except Exception:  # the comparison of what a user has put into the group
            return False

    def _step_count(self, params: Iterable[Tensor]) -> int:
        """Return the largest number of steps that one of the parameters has taken."""
        records = (self.state[param] for param in params if self.state.get(param))
        return max((int(record["step"]) for record in records), default=0)

    def _discard_cache(self) -> None:
        for name in ("_bindings", "_programs", "_highest_lrs"):
            self.__dict__.pop(name, None)

    @cached_property
    def _bindings(self) -> Bindings:
        return Bindings([group["params"] for group in self.param_groups], self.state)

    @cached_property
    def _programs(self) -> dict[int, Any]:
        """The programs of each group, with the settings that they were made from."""
        return {}

    @cached_property
    def _highest_lrs(self) -> dict[int, float]:
        """The highest learning rate that each group was stepped with."""
        return {}

    @cached_property
    def _warnings(self) -> WarnOnce:
        return WarnOnce()
