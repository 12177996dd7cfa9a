"""Step preparation: the groups, gradients and state of an optimizer become steps that the engine runs.

What is read from groups and state is cached, and read again whenever it is missing or has changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property, partial
from operator import attrgetter
from types import FunctionType
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor

from thalweg.engine.backends import Backend, BatchRunner
from thalweg.engine.core import precision, shards
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.gathered_copies import GatheredCopies
from thalweg.engine.core.object_ids import has_none
from thalweg.engine.core.plain_tensors import address, fake_mode_is_active
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.optim.closures import closure_steps
from thalweg.optim.parameters.binding import Binding
from thalweg.optim.parameters.bindings import Bindings, GroupBindings, ProgramFor, UnknownParameterError
from thalweg.optim.parameters.parameter_checks import (
    can_be_trained,
    check_caller,
    check_parameter,
    check_placement,
    check_rounding,
)
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.optim.settings import keywords
from thalweg.optim.state import shared_state
from thalweg.optim.state.state_entries import as_engine_tensor
from thalweg.optim.step.execution_plan import stateless_runners
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import schedule_conflict

P = ParamSpec("P")
R = TypeVar("R")

# It is torch's own and imports the compiler when it is first needed, which `torch.compiler.disable` does at once.
_disable_dynamo = getattr(torch, "_disable_dynamo", lambda function: function)

BoundGradients = list[tuple[Binding, list[Tensor]]]  # the bindings of a group with the gradients of their parameters

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

    def _prepare_steps(self, occurrence: int = 1) -> list[tuple[Binding, BatchStep]]:
        """Return the step of each batch of parameters that have a gradient.

        Args:
            occurrence: With 2, only parameters that a group has twice take a step, and so on.
        """
        self._follow_state()
        if self.rule.traits.needs == "curvature":
            self._check_curvature()
        prepare = (
            self._prepare_jointly
            if self.rule.traits.has_shared_state or self.rule.traits.uses_model_lr
            else self._prepare_separately
        )
        steps = prepare(range(len(self.param_groups)), occurrence)
        if not steps and occurrence == 1:
            self._check_in_use()
        return self._bindings.separate_gradients(steps)

    def _prepare_separately(self, numbers: Sequence[int], occurrence: int) -> list[tuple[Binding, BatchStep]]:
        steps = []
        for number in numbers:
            program_for = self._program_for(number)
            steps += self._steps(number, program_for, self._bind_gradients(number, program_for, occurrence))
        return steps

    def _prepare_jointly(self, numbers: Sequence[int], occurrence: int) -> list[tuple[Binding, BatchStep]]:
        """Prepare the steps of groups that depend on each other beside the sums over the model."""
        programs = list(map(self._program_for, numbers))
        self._check_shared_settings()
        bound = [
            self._bind_gradients(number, program_for, occurrence)
            for number, program_for in zip(numbers, programs, strict=True)
        ]
        model_lrs = self._model_lrs([binding for pairs in bound for binding, _ in pairs])
        steps = []
        for number, program_for, pairs in zip(numbers, programs, bound, strict=True):
            steps += self._steps(number, program_for, pairs, model_lrs.get(self._part(number)))
        return steps

    def _steps(
        self, number: int, program_for: ProgramFor, bound: BoundGradients, model_lr: Any = None
    ) -> list[tuple[Binding, BatchStep]]:
        seed = self.param_groups[number].get("seed", 0)
        return [(binding, binding.step(program_for(binding.dtype), grads, seed, model_lr)) for binding, grads in bound]

    def _check_in_use(self) -> None:
        """Check parameters that have no gradient: are they still those of the model?"""
        self._check_placement()
        if not self.state and shards.num_processes() > 1:
            self._warnings.warn(
                "gradients",
                f"{self._who}: a parameter must have a gradient at the first step, got none. If FSDP has wrapped the "
                "model since the optimizer was created, create it again from model.parameters().",
            )

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

    def _bind_gradients(self, number: int, program_for: ProgramFor, occurrence: int) -> BoundGradients:
        """Return the bindings of the parameters of a group that have a gradient, with their gradients."""
        params = self.param_groups[number]["params"]
        if self._bindings.has_duplicates:
            params = self._distinct(params, occurrence)
        # Before the gradients are read: the check of the bindings prefetches the parameters' memory, many at a time.
        bindings = self._bindings.valid(params, program_for)
        grads = list(map(_GRAD, params))
        if has_none(grads):
            params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
            grads = [grad for grad in grads if grad is not None]
            bindings = None
        if not params:
            return []
        if bindings is None:
            bindings = self._bind(number, params, program_for)
        return [
            (binding, grads if len(indices) == len(grads) else [grads[index] for index in indices])
            for binding, indices in bindings
        ]

    def _part(self, number: int) -> str:
        return shared_state.part_of(self.rule, self.param_groups[number])

    def _rules(self) -> list[tuple[str, Rule]]:
        """Return the part of each group, and its rule at the settings of this step."""
        return [(self._part(number), self._programs[number][2]) for number in range(len(self.param_groups))]

    def _check_with_other_groups(self, group: dict[str, Any]) -> None:
        """Raise an error if settings of a new group must be equal to those of the others, or for its duplicates."""
        groups = [*self.param_groups, group]
        traits = self.rule.traits
        if traits.has_shared_state or traits.counts_missed_steps:
            params = [entry[1] if isinstance(entry, tuple) else entry for entry in group["params"]]
            if len(set(map(id, params))) < len(params):
                raise ParameterError(
                    f"{self._who}: a group must have each parameter once, since all parameters take their steps "
                    "together, got one twice. Remove it."
                )
        if self.rule.traits.needs == "closure":
            closure_steps.check_settings(self.rule, groups)
        if self.rule.traits.has_shared_state:
            rules = [(shared_state.part_of(self.rule, each), keywords.to_rule(self.rule, each)) for each in groups]
            shared_state.check_settings(self.rule.name, rules)

    def _check_shared_settings(self) -> None:
        """Raise SettingError if settings that must be equal in all groups differ."""
        if self._unchecked and len(self.param_groups) > 1:
            shared_state.check_settings(self.rule.name, self._rules())
        self._unchecked = False

    def _model_lrs(self, bindings: list[Binding]) -> dict[str, Any]:
        """Return the highest learning rate of the groups of each part, for rules that depend on it."""
        if not bindings or not self.rule.traits.uses_model_lr:
            return {}
        step = 1 + max(binding.largest_step_count() for binding in bindings)
        highest: dict[str, float] = {}
        for group, (part, rule) in zip(self.param_groups, self._rules(), strict=True):
            if "lr" in group:
                highest[part] = max(highest.get(part, 0.0), rule.base_lr(step))
        return highest

    def _peers(self, number: int) -> list[dict[str, Any]]:
        """Return the state of all parameters of the groups that share state with a group."""
        part = self._part(number)
        params = (
            param for k, group in enumerate(self.param_groups) if self._part(k) == part for param in group["params"]
        )
        return [record for param in params if (record := self.state.get(param))]

    def _update_resting_parameters(self, prepared: list[tuple[Binding, BatchStep]]) -> None:
        """Bring the state of parameters without a gradient up to date after a step, if their rule has such state."""
        traits = self.rule.traits
        if not (traits.has_shared_state or traits.counts_missed_steps):
            return
        if sum(len(binding.params) for binding, _ in prepared) == len(self.state):
            return  # all parameters with state took part
        stepped = {id(param) for binding, _ in prepared for param in binding.params}
        sources: dict[str, Any] = {}
        resting: dict[str, list[Any]] = {}
        for number, group in enumerate(self.param_groups):
            rule, with_state = self._programs[number][2], list(filter(self.state.get, group["params"]))
            missed = [param for param in with_state if id(param) not in stepped]
            if shared_state.MODEL_STEPS in rule.traits.recurrent_scalars:
                self._count_missed_step(number, missed, rule)
            resting.setdefault(self._part(number), []).extend(missed)
            for param in with_state:
                if id(param) in stepped:
                    sources.setdefault(self._part(number), (rule, param))
                    break
        for part, (rule, source) in sources.items():
            records = [self.state[param] for param in resting[part]]
            for key in shared_state.shared_keys(rule, source) if records else ():
                shared_state.write(records, key, self.state[source][key])

    def _count_missed_step(self, number: int, missed: Sequence[Tensor], rule: Rule) -> None:
        """Count a step of the optimizer for parameters of a group that have state but no gradient."""
        self._bindings.count_missed_step(missed, rule)

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
        self._check_fake()
        if self._bindings.state is not self.state:
            self._discard_cache()  # the user has replaced the whole state
        self._bindings.follow_state()

    def _bind(self, number: int, params: list[Tensor], program_for: ProgramFor) -> GroupBindings:
        peers = partial(self._peers, number)
        try:
            return self._bindings.get_or_create(params, program_for, self._backend, peers)
        except UnknownParameterError:  # the user has put another parameter into the group
            self._discard_cache()
            return self._bindings.get_or_create(params, program_for, self._backend, peers)

    def _program_for(self, number: int, *, ahead: int = 1, fresh: bool = False) -> ProgramFor:
        """Return a function from a dtype to the program of a group at its present settings.

        Args:
            number: The number of the group.
            ahead: 1 for the program of the next step, 0 for that of the last one.
            fresh: Read settings that are tensors on a device, too, and wait for them.
        """
        group = self.param_groups[number]
        settings = keywords.settings(self.rule, dict(group) if fresh else group)
        step = self._step_count(group["params"]) + ahead if self.rule.traits.varies_by_step else 0
        key = (settings, group["maximize"], group.get("rounding", "nearest"), group.get("seed", 0), step)
        if not self._is_current(number, key):
            group |= keywords.check_common(self.rule, group)
            maximize, rounding = group["maximize"], group.get("rounding", "nearest")  # as Python's own
            (known, *_), _, _, base = self._programs.get(number, (({},), None, None, self.rule))
            base = rule = base.with_(**keywords.changes(known, settings))  # a schedule changes one of many
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

            self._programs[number] = key, program, rule, base
            self._unchecked = True
        return self._programs[number][1]

    def _is_current(self, number: int, key: tuple[Any, ...]) -> bool:
        """Return True if the program of a group was made from these settings."""
        try:
            return number in self._programs and self._programs[number][0] == key
        except Exception:  # the comparison of what a user has put into the group
            return False

    def _step_count(self, params: Iterable[Tensor]) -> int:
        """Return the largest number of steps that one of the parameters has taken."""
        return max((int(record["step"]) for param in params if (record := self.state.get(param))), default=0)

    def _stateless_runners(self) -> list[BatchRunner]:
        """Return the runner that each parameter would have without state, in the order of the optimizer."""
        return [
            runner
            for number, group in enumerate(self.param_groups)
            for runner in stateless_runners(
                list(filter(can_be_trained, group["params"])),
                self._program_for(number),
                self._backend,
                captured=bool(self.defaults.get("capturable")),
            )
        ]

    def _discard_cache(self) -> None:
        for name in ("_bindings", "_programs", "_highest_lrs", "_on_gpu", "_closure_steps"):
            self.__dict__.pop(name, None)

    @cached_property
    def _bindings(self) -> Bindings:
        self._check_fake()
        return Bindings([group["params"] for group in self.param_groups], self.state)

    _unchecked = True  # the settings of some group have changed since they were compared with those of the others

    @cached_property
    def _programs(self) -> dict[int, Any]:
        """For each group its settings, the programs that were made from them, their rule, and the rule of all steps."""
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
