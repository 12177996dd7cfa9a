"""Step preparation: the groups, gradients and state of an optimizer become steps that the engine runs.

What is read from groups and state is cached, and read again whenever it is missing or has changed.
"""

from collections.abc import Iterable
from functools import cache, cached_property, partial
from operator import attrgetter, is_not
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine.backends import Backend, BatchRunner
from thalweg.engine.core import precision, shards
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.gathered_copies import GatheredCopies
from thalweg.engine.core.program import Program
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.bindings import Bindings, GroupBindings, ProgramFor, UnknownParameterError
from thalweg.optim.execution_plan import stateless_runners
from thalweg.optim.parameter_checks import check_caller, check_parameter, check_placement, check_rounding
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import schedule_conflict

_GRAD = attrgetter("grad")  # faster in a map than a comprehension


class StepPreparation(torch.optim.Optimizer):
    """The private half of `RuleOptimizer`: it prepares steps and takes none."""

    rule: ClassVar[Rule]
    _backend: Backend | None
    _has_all_groups = True  # False while the groups of the constructor are added

    def __init__(self, params: list[Any], defaults: dict[str, Any]) -> None:
        self._has_all_groups = False
        super().__init__(params, defaults)
        self._has_all_groups = True
        self._check_placement()

    def _check_params(self, rule: Rule, params: list[Any], settings: dict[str, Any]) -> None:
        """Check that a rule can optimize the parameters of a new group."""
        rounding = settings.get("rounding", "nearest")
        for param in params:
            check_parameter(self._who, rule, param, rounding)
        if self._has_all_groups:  # a group of vectors alone does not show whether FSDP has left it whole
            divided = shards.divided([*params, *self._all_params()])
            check_placement(self._who, rule, params, divided, rounding)
            check_caller(self._who, rule, params, rounding)

    def _check_placement(self) -> None:
        """Check that the steps of all groups are right if parameters are divided over processes."""
        divided = shards.divided(self._all_params())
        for group in self.param_groups:
            rule, rounding = keywords.to_rule(self.rule, group), group.get("rounding", "nearest")
            check_placement(self._who, rule, group["params"], divided, rounding)
            check_caller(self._who, rule, group["params"], rounding)

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _prepare_steps(self) -> list[tuple[Binding, BatchStep]]:
        """Return the step of each batch of parameters that have a gradient."""
        self._follow_state()
        steps = [pair for number in range(len(self.param_groups)) for pair in self._prepare_group(number)]
        if not steps:
            self._check_in_use()
        return steps

    def _check_in_use(self) -> None:
        """Check parameters that have no gradient: are they still those of the model?"""
        self._check_placement()
        if not self.state and shards.num_processes() > 1:
            self._warnings.warn(
                "gradients",
                f"{self._who}: a parameter must have a gradient at the first step, got none. If FSDP has wrapped the "
                "model since the optimizer was created, create it again from model.parameters().",
            )

    def _prepare_group(self, number: int) -> list[tuple[Binding, BatchStep]]:
        group = self.param_groups[number]
        params, program_for = group["params"], self._program_for(number)
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
        key = (settings, group["maximize"], group.get("rounding", "nearest"), step)
        if number not in self._programs or self._programs[number][0] != key:
            keywords.check_common(self.rule, group)
            rule = self.rule.with_(**settings).for_step(step)
            if rule.traits.replaces_lr_schedule and "lr" in settings:
                self._highest_lrs[number] = highest = max(settings["lr"], self._highest_lrs.get(number, 0.0))
                if message := schedule_conflict(rule, highest, settings["lr"]):
                    self._warnings.warn("schedule", message)

            @cache
            def program(dtype: torch.dtype) -> Program:
                check_rounding(self._who, key[2], dtype)
                return Program(rule, key[1], precision.effective_rounding(key[2], dtype))

            self._programs[number] = key, program
        return self._programs[number][1]

    def _step_count(self, params: Iterable[Tensor]) -> int:
        """Return the largest number of steps that one of the parameters has taken."""
        records = (self.state[param] for param in params if self.state.get(param))
        return max((int(record["step"]) for record in records), default=0)

    def _stateless_runners(self) -> list[BatchRunner]:
        """Return the runner that each parameter would have without state, in the order of the optimizer."""
        return [
            runner
            for number, group in enumerate(self.param_groups)
            for runner in stateless_runners(group["params"], self._program_for(number), self._backend)
        ]

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

    def _drop_gathered_copies(self) -> None:
        """Let FSDP gather parameters again, since they will be written to outside a step."""
        self._gathered_copies.drop(self._all_params())

    @cached_property
    def _gathered_copies(self) -> GatheredCopies:
        return GatheredCopies()

    @cached_property
    def _warnings(self) -> WarnOnce:
        return WarnOnce()
