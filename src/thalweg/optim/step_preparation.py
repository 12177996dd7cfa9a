"""Step preparation: the groups, gradients and state of an optimizer become steps that the engine runs.

What is read from groups and state is cached, and read again whenever it is missing or has changed.
"""

from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from operator import attrgetter, is_not
from types import FunctionType
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor

from thalweg.engine.backends import Backend
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.plain_tensors import address, fake_mode_is_active
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.bindings import Bindings, GroupBindings, ProgramFor, UnknownParameterError
from thalweg.optim.parameter_checks import check_rounding
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.optim.state_entries import as_engine_tensor
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import schedule_conflict

P = ParamSpec("P")
R = TypeVar("R")

# It is torch's own and imports the compiler when it is first needed, which `torch.compiler.disable` does at once.
_disable_dynamo = getattr(torch, "_disable_dynamo", lambda function: function)

_GRAD = attrgetter("grad")  # faster in a map than a comprehension


class StepPreparation(torch.optim.Optimizer):
    """The private half of `RuleOptimizer`: it prepares steps and takes none."""

    rule: ClassVar[Rule]
    _backend: Backend | None

    def __init_subclass__(cls) -> None:
        """Keep ``torch.compile`` from tracing the public methods of a class, as torch does with ``state_dict``."""
        for name, member in list(vars(cls).items()):
            if (name[0] == "_" and name != "__init__") or name == "step":
                continue
            if isinstance(member, FunctionType):
                setattr(cls, name, _disable_dynamo(member))
            elif isinstance(member, property):
                setattr(cls, name, property(_disable_dynamo(member.fget), doc=member.__doc__))

    @staticmethod
    def profile_hook_step(func: Callable[P, R]) -> Callable[P, R]:
        """Add torch's hooks to the ``step`` of a class, and keep ``torch.compile`` from tracing both."""
        step = torch.optim.Optimizer.profile_hook_step(func)
        untraced: Callable[P, R] = torch.compiler.disable(  # type: ignore[no-untyped-call]  # by torch
            step, reason="thalweg compiles steps itself; they fit into no full graph"
        )
        # By this attribute torch 2.8 would take a bound `optimizer.step` for the function without its hooks and self.
        vars(untraced).pop("_torchdynamo_orig_callable", None)
        return untraced

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _prepare_steps(self) -> list[tuple[Binding, BatchStep]]:
        """Return the step of each batch of parameters that have a gradient."""
        self._follow_state()
        return [pair for number in range(len(self.param_groups)) for pair in self._prepare_group(number)]

    def _check_fake(self) -> None:
        """Raise ParameterError if FakeTensorMode is active and a parameter is real: a kernel would write its memory."""
        if not fake_mode_is_active():
            return
        for param in (param for group in self.param_groups for param in group["params"]):
            if address(as_engine_tensor(param)):
                raise ParameterError(
                    f"{self._who}: parameters must be fake tensors under FakeTensorMode, got a real one of shape "
                    f"{tuple(param.shape)}. Create the model and the optimizer under the mode, or step outside of it."
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
        self._check_fake()
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

    def _discard_cache(self) -> None:
        for name in ("_bindings", "_programs", "_highest_lrs"):
            self.__dict__.pop(name, None)

    @cached_property
    def _bindings(self) -> Bindings:
        self._check_fake()
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
