"""Captured steps: the preparation of steps whose numbers stay on the device, and the refusal of those that cannot."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.devices import is_capturing
from thalweg.engine.core.program import Program
from thalweg.engine.scalars.expressions import UntraceableError
from thalweg.engine.scalars.program import ScalarInputs, TensorEvaluator, number_settings, scalar_program
from thalweg.errors import KeywordError, ParameterError, SettingError
from thalweg.optim.captured.binding import DeviceBinding, missed_scalars
from thalweg.optim.captured.scalar_state import DeviceScalarState
from thalweg.optim.parameters.binding import Binding
from thalweg.optim.parameters.bindings import Bindings, GroupBindings, ProgramFor
from thalweg.optim.settings import keywords
from thalweg.optim.settings.device_groups import DeviceGroup
from thalweg.optim.step.step_preparation import BoundGradients, StepPreparation
from thalweg.rules import Rule

_SHAPE = torch.Size((2, 2))  # of any matrix


class CapturedSteps(StepPreparation):
    """The part of `RuleOptimizer` that prepares captured steps, if ``capturable=True``."""

    @property
    def _captured(self) -> bool:
        return bool(self.defaults.get("capturable"))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """True if a step reads `grad_scale` and `found_inf`, which a GradScaler sets, without waiting for them."""
        return self._captured

    def _accelerator_graph_capture_health_check(self) -> None:
        self._check_capture()

    def _cuda_graph_capture_health_check(self) -> None:
        self._check_capture()

    @cached_property
    def _on_gpu(self) -> bool:
        return any(param.device.type == "cuda" for param in self._all_params())

    def _check_capture(self) -> None:
        """Raise ParameterError if a graph is captured that would replay a wrong step."""
        if not is_capturing():
            return
        if not self._captured:
            raise ParameterError(
                f"{self._who}: a step must not be captured into a graph, which would replay its numbers, unless "
                f"capturable=True. Pass it to {self._who}."
            )
        missing = [param for param in self._all_params() if param.requires_grad and param.grad is None]
        if missing:
            raise ParameterError(
                f"{self._who}: all parameters that require a gradient must have one when a step is captured, got one "
                f"of shape {tuple(missing[0].shape)} without, which no replay would step. Call loss.backward() before, "
                "or requires_grad_(False) for a parameter that must not move."
            )

    # --- groups -------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch."""
        super().add_param_group(param_group)
        if self._captured:
            self._check_capturable(self.param_groups[-1])
            self._carry_groups()

    def _carry_groups(self) -> None:
        """Make every group one that copies its settings to the devices of its parameters."""
        for number, group in enumerate(self.param_groups):
            if type(group) is not DeviceGroup:
                names, numbers = keywords.members(self.rule), number_settings(self.rule)
                self.param_groups[number] = DeviceGroup(group, self._who, names, numbers)

    def _check_capturable(self, group: dict[str, Any]) -> None:
        """Raise an error if the steps of a group cannot be captured."""
        rule = keywords.to_rule(self.rule, group)
        check_rule(rule)
        for param in group["params"]:
            if param.device.type == "mps":
                raise ParameterError(
                    f"{self._who}: parameters must be on a device with double precision if capturable=True, got one on "
                    f"{param.device}. Remove capturable."
                )
        devices = {param.device for param in group["params"]}
        numbers = keywords.settings(self.rule, group)
        for keyword, names in keywords.members(self.rule).items():
            values = group[keyword] if isinstance(group[keyword], list | tuple) else [group[keyword]]
            for value in values:
                if isinstance(value, Tensor) and (elsewhere := devices - {value.device}):
                    raise SettingError(
                        f"{self._who}: {keyword} must be on the device of the parameters, {elsewhere.pop()}, got a "
                        f"tensor on {value.device}, which a captured step cannot read. Pass a float, or move it."
                    )
            if any(isinstance(value, Tensor) for value in values):
                for name in names:
                    self._check_switches_nothing(rule, name, numbers[name])

    def _check_switches_nothing(self, rule: Rule, name: str, number: Any) -> None:
        """Raise SettingError if a tensor starts at 0 and the rule has other state for other values."""
        if number != 0:
            return
        try:
            changed = rule.with_(**{name: 0.5})
        except SettingError:
            return
        if list(changed.layout(_SHAPE)) != list(rule.layout(_SHAPE)):
            raise SettingError(
                f"{self._who}: {name} must not start at 0 as a tensor, since at 0 the rule keeps less state than later "
                "steps need. Pass 0 as a float if it stays 0, or a small first value."
            )

    # --- preparation --------------------------------------------------------------------------------------------------

    @cached_property
    def _bindings(self) -> Bindings:
        self._check_fake()
        groups = [group["params"] for group in self.param_groups]
        if not self._captured:
            return Bindings(groups, self.state)
        devices = [param.device for params in groups for param in params]
        return Bindings(groups, self.state, DeviceScalarState(devices), DeviceBinding)

    def _prepare_steps(self, occurrence: int = 1) -> list[tuple[Binding, BatchStep]]:
        if self._on_gpu:
            self._check_capture()
        if self._captured:
            self._carry_groups()
        return super()._prepare_steps(occurrence)

    def _bind(self, number: int, params: list[Tensor], program_for: ProgramFor) -> GroupBindings:
        if self._captured and is_capturing() and self._bindings.valid(params, program_for) is None:
            raise ParameterError(
                f"{self._who}: state must exist when a step is captured, got parameters that have taken no step or "
                "were changed since. Take a step before, on a side stream as torch.cuda.graph recommends."
            )
        return super()._bind(number, params, program_for)

    def _steps(
        self, number: int, program_for: ProgramFor, bound: BoundGradients, model_lr: Any = None
    ) -> list[tuple[Binding, BatchStep]]:
        if not self._captured:
            return super()._steps(number, program_for, bound, model_lr)
        group = self.param_groups[number]
        steps: list[tuple[Binding, BatchStep]] = []
        assert isinstance(group, DeviceGroup), "the groups of captured steps carry their settings"
        for binding, grads in bound:
            assert isinstance(binding, DeviceBinding), "captured steps have scalars on the device"
            device = binding.batch.device
            step = binding.device_step(
                program_for(binding.dtype),
                grads,
                group.settings_on(device),
                group.vector_on(device),
                group.get("seed", 0),
                None if model_lr is None else model_lr.to(device),
                self._skip(device),
                self._grad_factor(device),
            )
            steps.append((binding, step))
        return steps

    def _skip(self, device: torch.device) -> Tensor | None:
        """Return the number that is not 0 if a GradScaler has found an overflow; None without a GradScaler."""
        found_inf = getattr(self, "found_inf", None)
        return found_inf.to(device, torch.float32).reshape(()) if isinstance(found_inf, Tensor) else None

    def _grad_factor(self, device: torch.device) -> Tensor | None:
        """Return the factor by which ``GradScaler.unscale_`` would multiply; None if gradients are not scaled."""
        scale = getattr(self, "grad_scale", None)
        return scale.to(device).reshape(()).double().reciprocal().float() if isinstance(scale, Tensor) else None

    def _model_lrs(self, bindings: list[Binding]) -> dict[str, Any]:
        if not self._captured:
            return super()._model_lrs(bindings)
        if not bindings or not self.rule.traits.uses_model_lr:
            return {}
        device = bindings[0].batch.device
        counts = [binding.scalars.next_steps().amax().to(device) for binding in bindings]  # type: ignore[attr-defined]
        step = torch.stack(counts).amax()
        highest: dict[str, Tensor] = {}
        for group, (part, rule) in zip(self.param_groups, self._rules(), strict=True):
            if "lr" in group:
                lr = self._base_lr(rule, device)(ScalarInputs(step, group.settings_on(device), {}).by_name())["lr"]  # type: ignore[attr-defined]
                highest[part] = torch.maximum(highest[part], lr) if part in highest else lr
        return highest

    def _base_lr(self, rule: Rule, device: torch.device) -> TensorEvaluator:
        key = rule.code_key, device
        if key not in self._base_lrs:
            self._base_lrs[key] = TensorEvaluator(scalar_program(Program(rule)).base_lr, device)
        return self._base_lrs[key]

    @cached_property
    def _base_lrs(self) -> dict[Any, TensorEvaluator]:
        return {}

    def _count_missed_step(self, number: int, missed: Sequence[Tensor], rule: Rule) -> None:
        if not self._captured:
            super()._count_missed_step(number, missed, rule)
            return
        group = self.param_groups[number]
        assert isinstance(group, DeviceGroup), "the groups of captured steps carry their settings"
        for param in missed:
            position, arrays = self._bindings.adopt_recurrent_scalars(param, rule)
            write = missed_scalars(Program(rule), arrays, position, param.device)
            write(group.settings_on(param.device), self._skip(param.device))


def check_rule(rule: Rule) -> None:
    """Raise KeywordError if the steps of a rule cannot be captured."""
    traits = rule.traits
    why = None
    if traits.needs == "closure":
        why = "its steps call a closure and decide by the loss"
    elif traits.needs == "second gradient":
        why = "its steps compute a second gradient between two halves"
    elif traits.varies_by_step:
        why = "another rule takes over at some step"
    elif not traits.supports_vmap:
        why = "some of its steps do other operations than the rest, and the host decides which"
    else:
        try:
            scalar_program(Program(rule))
        except UntraceableError as error:
            why = f"its coefficients cannot be computed on a device: {error}"
    if why is not None:
        raise KeywordError(
            f"{rule.name}: capturable must be False, since {why}, got capturable=True. Remove it, and step outside of "
            "the graph."
        )
