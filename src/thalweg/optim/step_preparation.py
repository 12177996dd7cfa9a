"""Step preparation: the groups, gradients and state of an optimizer become steps that the engine runs.

What is read from groups and state is cached, and read again whenever it is missing or has changed.
"""

from collections.abc import Iterable
from functools import cache, cached_property, partial
from operator import attrgetter, is_not
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.backends import Backend
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.program import Program
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.bindings import Bindings, GroupBindings, ProgramFor, UnknownParameterError
from thalweg.optim.parameter_checks import check_rounding
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.optim.state_entries import as_engine_tensor
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import schedule_conflict

_GRAD = attrgetter("grad")  # faster in a map than a comprehension


class StepPreparation(torch.optim.Optimizer):
    """The private half of `RuleOptimizer`: it prepares steps and takes none."""

    rule: ClassVar[Rule]
    _has_state_from_start: ClassVar[bool] = False  # as torch's Adagrad
    _backend: Backend | None

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _prepare_steps(self) -> list[tuple[Binding, BatchStep]]:
        """Return the step of each batch of parameters that have a gradient."""
        self._follow_state()
        steps = [pair for number in range(len(self.param_groups)) for pair in self._prepare_group(number)]
        return self._bindings.separate_gradients(steps)

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

    def share_memory(self) -> None:
        """Move the state of all parameters into shared memory, so that several processes train with one state.

        The state is created first, where there is none. Then processes that are started with this optimizer, by fork
        or spawn, read and write the same moments and count the same steps, as with ``model.share_memory()`` the same
        parameters. Steps that processes take at the same moment are not synchronized.

        Call it after the parameters have their first values, since some rules keep a copy of them.

        Example:
            >>> import torch
            >>> from thalweg import optim
            >>> model = torch.nn.Linear(4, 1).share_memory()
            >>> optimizer = optim.Adam(model.parameters())
            >>> optimizer.share_memory()
            >>> all(entry.is_shared() for entry in optimizer.state[model.weight].values())
            True
        """
        for number in range(len(self.param_groups)):
            self._create_state(number)
        for record in self.state.values():
            for entry in record.values():
                if isinstance(entry, Tensor):
                    as_engine_tensor(entry).share_memory_()  # type: ignore[no-untyped-call]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, and its state if the optimizer has state before the first step."""
        super().add_param_group(param_group)
        if self._has_state_from_start:
            self._create_state(len(self.param_groups) - 1)

    def _create_state(self, number: int) -> None:
        """Create the state of all parameters of a group, as the first step would."""
        params = [param for param in self.param_groups[number]["params"] if _can_have_state(param)]
        if params:
            self._follow_state()
            self._bind(params, self._program_for(number))
            self._discard_cache()

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


def _can_have_state(param: Tensor) -> bool:
    """Return True if a parameter has values now that an optimizer can change."""
    return not is_lazy(param) and not param.is_meta and (param.is_floating_point() or param.is_complex())
