"""`RuleOptimizer`: the one class that makes a `torch.optim.Optimizer` of a rule."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine import backends, curvature
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.errors import ParameterError
from thalweg.optim import checkpoints
from thalweg.optim.closures import closure_steps
from thalweg.optim.evaluation_mode import Mode
from thalweg.optim.parameters.binding import Binding, step_differentiably, step_in_place
from thalweg.optim.parameters.parameter_checks import as_entries, as_list, can_be_trained
from thalweg.optim.second_gradients import SecondGradients
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.optim.settings import keywords, signatures
from thalweg.optim.step.execution_plan import ExecutionPlan, make_plan
from thalweg.optim.step.step_lock import add_lock, one_at_a_time
from thalweg.rules import Rule
from thalweg.rules.composition.switched import Switched
from thalweg.rules.core.traits import Needs
from thalweg.rules.explanation.setting_checks import find_conflicts


class RuleOptimizer(SecondGradients):
    """The base of all optimizers: a rule with the interface of ``torch.optim.Optimizer``.

    Groups, schedulers, closures, hooks and checkpoints are torch's own. ``param_groups`` are the only place of the
    settings, so a scheduler writes to them as usual. ``state[param]`` holds ``step`` and the state of the rule under
    torch's keys; state keeps its dtype through ``load_state_dict``. Gradients are never written.

    Each class of :mod:`thalweg.optim` and of :func:`optimizer_for` has a signature with the settings of its rule.

    Args:
        params: Parameters to optimize: tensors, pairs of a name and a tensor, or dictionaries that define groups.
        *args: Settings of the rule by position, in the order of the signature.
        maximize: Increase the loss instead of decreasing it.
        rounding: Rounding of bfloat16 and float16 parameters.
        seed: Seed of stochastic rounding and of the random numbers that a rule draws; an integer of 64 bits.
        backend: Backend that runs the steps. None selects the fastest one for each batch of parameters.
        **settings: Settings of the rule by name.

    Attributes:
        rule: The rule at its default settings.

    Raises:
        SettingError: If a setting is out of its bounds.
        KeywordError: If a keyword is unknown.
        ParameterError: If the rule cannot optimize a parameter.
    """

    rule: ClassVar[Rule]

    def __init_subclass__(cls, *, rule: type[Rule] | Rule | None = None) -> None:
        """Make the class the optimizer of a rule. A subclass without a rule keeps the rule of its base."""
        if rule is None:
            return
        cls.rule = rule = rule() if isinstance(rule, type) else rule
        cls.__signature__ = signatures.signature(rule)  # type: ignore[attr-defined]  # `inspect` reads it
        cls.__doc__ = signatures.docstring(rule)
        CLASSES.setdefault(rule, cls)

    def __init__(
        self,
        params: Iterable[Any],
        *args: Any,
        maximize: bool = False,
        rounding: precision.Rounding = "nearest",
        seed: int = 0,
        backend: backends.Backend | None = None,
        **settings: Any,
    ) -> None:
        requested = settings
        settings = keywords.without_torch_kernels(self.rule, requested)
        keywords.check_backend(self.rule, backend)
        self._backend = backend
        self._mode = Mode()
        params = as_list(self._who, params)
        self._warnings = WarnOnce()
        add_lock(self)
        common = {"maximize": maximize, "rounding": rounding, "seed": seed}
        defaults = keywords.plain_settings(self.rule, keywords.defaults_of(self.rule, args, settings) | common)
        if (defaults["rounding"], defaults["seed"]) == ("nearest", 0):  # then groups have the keys of torch's groups
            del defaults["rounding"], defaults["seed"]
        for keyword in ("differentiable", "capturable"):  # torch's base class reads it from the defaults
            if requested.get(keyword):
                defaults[keyword] = True
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch.

        A `thalweg.errors.SettingWarning` is given if settings contradict each other or the declaration of the rule.

        Args:
            param_group: Parameters under ``"params"``, and settings that differ from the defaults of the optimizer.

        Raises:
            SettingError: If a setting is out of its bounds.
            KeywordError: If a key is nearly the name of a setting.
            ParameterError: If the rule cannot optimize a parameter.
        """
        keywords.check_group(self.rule, param_group)
        own_settings = keywords.without_torch_kernels(self.rule, param_group)
        own_settings = keywords.plain_settings(self.rule, own_settings)
        group = self.defaults | own_settings
        keywords.check_routed(self.rule, group)
        rule = keywords.to_rule(self.rule, group)
        differentiable = bool(self.defaults.get("differentiable"))
        own_settings["params"] = params = as_entries(
            self._who, own_settings["params"], self.param_groups, differentiable=differentiable
        )
        self._check_params(rule, [entry[1] if isinstance(entry, tuple) else entry for entry in params], group)
        self._check_with_other_groups(group)
        # As in torch the caller's dictionary becomes the group, so that both may keep it.
        param_group.clear()
        param_group.update(own_settings)
        super().add_param_group(param_group)
        self._discard_cache()
        for dtype in {param.dtype for param in param_group["params"] if can_be_trained(param)}:
            for topic, message in find_conflicts(rule, precision.compute_dtype(dtype)).items():
                self._warnings.warn(topic, message)

    @torch.no_grad()
    @one_at_a_time
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: A function that zeroes the gradients, computes the loss of the whole batch, calls ``backward()``
                and returns the loss. L-BFGS needs it and calls it repeatedly. Rules that perturb the parameters (SAM)
                call it twice; without it they need ``perturbed()``. For others it is optional.

        Returns:
            The result of the first call of the closure, or None.

        Raises:
            ParameterError: If a gradient does not fit its parameter, if the closure is missing, if it is called by a
                `GradScaler`, or if the parameters are those of evaluation.
        """
        if self._mode.evaluating or self._mode.perturbed:
            self._check_training("take a step")
        if closure is not None:
            self._check_caller(scaled=hasattr(self, "found_inf"))
        if self.rule.traits.needs == "closure":
            closure = self._required(closure, "several losses and gradients")
            if self.next_step_needs == "closure":
                return self._run_closure_steps(closure)
        loss = None
        if self.rule.traits.needs == "second gradient":
            loss = self._compute_second_gradients(closure)
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        # All steps are prepared, and bad gradients refused, before the first parameter is written.
        stepped = self._take(1)
        if self._bindings.has_duplicates:  # as in torch, a parameter that a group has twice takes two steps
            occurrence = 2
            while self._take(occurrence):
                occurrence += 1
        self._update_resting_parameters(stepped)
        return loss

    @property
    def next_step_needs(self) -> Needs:
        """The requirement of the next step, if a rule takes over from another one; else that of all steps."""
        if not self.rule.traits.varies_by_step or not self.param_groups:
            return self.rule.traits.needs
        current = self._rule_of_step().current if isinstance(self.rule, Switched) else self.rule
        return current.traits.needs

    def _rule_of_step(self) -> Any:
        """Return the rule of the first group as it is in the next step."""
        group = self.param_groups[0]
        return keywords.to_rule(self.rule, group).for_step(self._step_count(self._all_params()) + 1)

    def _run_closure_steps(self, closure: Callable[[], Any]) -> Any:
        """Take a step of several iterations, each of which may call the closure several times."""
        closure_steps.check_groups(self.rule, self.param_groups)
        maximize = self.param_groups[0]["maximize"]
        loss = self._closure_steps.run(self._rule_of_step(), maximize, self._repeatable(closure))
        self._mark_gradients()
        return loss

    @cached_property
    def _closure_steps(self) -> closure_steps.ClosureSteps:
        return closure_steps.ClosureSteps(self._prepare_steps, self._all_params())

    def _take(self, occurrence: int) -> list[tuple[Binding, BatchStep]]:
        """Step the parameters that a group has `occurrence` times or more; return their steps."""
        if not self.defaults.get("differentiable"):
            prepared = self._prepare_steps(occurrence)
            step_in_place(prepared)
            return prepared
        with torch.enable_grad():
            self._programs.clear()  # gradients reach the settings that the groups hold now
            with keywords.no_gradient_is_lost(self.rule):
                prepared = self._prepare_steps(occurrence)
                keywords.check_recurrent_scalars(self.rule, [step for _, step in prepared])
            step_differentiably(prepared)
        return prepared

    def estimate_curvature(self, loss: Tensor, *, process_group: Any = None) -> None:
        """Estimate the diagonal of the loss's Hessian and store it, for rules that need it (AdaHessian, Sophia).

        The estimate is Hutchinson's, from random signs. They are drawn anew at each call from the seed of the group.

        Args:
            loss: The loss, of shape ``()``, with its graph. The graph is retained: ``loss.backward()`` may follow. It
                is neither scaled by a `GradScaler` nor divided by a number of micro-batches.
            process_group: The processes that train this model, whose estimates are averaged; ``"self"`` if it is this
                process alone. Required if there are several processes.

        Raises:
            ParameterError: If the rule does not use curvature, FSDP shards the model, or `process_group` is missing.
        """
        groups = [(group, self._distinct(group["params"])) for group in self.param_groups]
        trained = [(group, param) for group, params in groups for param in params if param.requires_grad]
        params = [param for _, param in trained]
        signs = [
            curvature.signs(param, group.get("seed", 0), position, self._step_count([param]))
            for position, (group, param) in enumerate(trained)
        ]
        values = curvature.estimate(self._who, loss, params, signs, process_group)
        estimates = dict(zip(map(id, params), values, strict=True))
        self._update_curvature(lambda param: estimates.get(id(param)))

    def absorb_gauss_newton(self, num_examples: int) -> None:
        """Store an estimate of the Gauss-Newton diagonal: `num_examples` times the squared gradients.

        The gradients must be those of a mean loss over examples whose labels were drawn from the model's own
        predictions (Gauss-Newton-Bartlett; Liu et al. 2023, arXiv:2305.14342, Algorithm 2).

        Args:
            num_examples: The number of examples of the mean loss, of all micro-batches if gradients are accumulated.
                With a `GradScaler`, call ``scaler.unscale_(optimizer)`` first.

        Raises:
            ParameterError: If the rule does not use curvature.
        """
        self._update_curvature(
            lambda param: (
                None
                if param.grad is None
                else num_examples * param.grad.detach().to(precision.compute_dtype(param.dtype)).square()
            )
        )

    @torch.no_grad()
    def _update_curvature(self, estimate: Callable[[Tensor], Tensor | None]) -> None:
        if self.rule.traits.needs != "curvature":
            raise ParameterError(
                f"{self._who}: the rule must use estimates of curvature, and it does not. Remove the call."
            )
        self._check_training("estimate the curvature")
        self._follow_state()
        for number, group in enumerate(self.param_groups):
            program_for = self._program_for(number, fresh=True)
            params = self._distinct(group["params"])
            estimates = {id(param): value for param in params if (value := estimate(param)) is not None}
            params = [param for param in params if id(param) in estimates]
            for binding, _ in self._bind(number, params, program_for) if params else []:
                values = [estimates[id(param)] for param in binding.params]
                binding.update_curvature(program_for(binding.dtype), values)

    @property
    def plan(self) -> ExecutionPlan:
        """The backend of each parameter, and the reason; before its first step, the backend that it will have."""
        return make_plan(self.param_groups, self._stateless_runners(), self._bindings.runners())

    def prepare(self) -> ExecutionPlan:
        """Wait until every kernel of the plan is compiled. Parameters and state do not change.

        Returns:
            The plan, in which no kernel is missing any more.
        """
        for runner in self._stateless_runners():
            runner.resolve(wait=True)
        return self.plan

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint of torch, and under ``"rule"`` the name of the rule.

        A checkpoint that is saved between ``eval`` and ``train`` holds the values that are trained, too, beside the
        model's own checkpoint of the values for evaluation. An optimizer that loads it evaluates until ``train()``.
        """
        state_dict = super().state_dict() | {"rule": self.rule.name}
        # A training says so, too, for checkpoints of which only present keys are read; not where groups are torch's.
        says_mode = self._mode.evaluating or not keywords.torch_defaults(self.rule.name)
        if self.rule.traits.has_eval_params and says_mode:
            return checkpoints.with_mode(state_dict, evaluating=self._mode.evaluating)
        return state_dict

    def _evaluates(self, checkpoint: dict[str, Any]) -> bool:
        return self.rule.traits.has_eval_params and checkpoints.is_evaluating(checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of torch's class of the same name, or one that can be converted exactly.

        torch casts state to the dtype of the parameter (pytorch#43706). Here state keeps the dtype it was saved in. A
        checkpoint is checked as a whole before anything is changed.

        Args:
            state_dict: The result of ``state_dict()`` of this class, of torch's, or of a library that README.md lists.

        Raises:
            ParameterError: If the checkpoint does not fit.
            SettingError: If a saved setting is out of its bounds.
        """

        def check(_: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> dict[str, Any]:
            prepared, state = checkpoints.prepare(self, checkpoint, self._warnings.warn)
            self._loaded = {"state": state, "_mode": Mode(evaluating=self._evaluates(checkpoint))}
            return prepared

        # Hooks run in the order they were registered: this one, the last, sees the final checkpoint.
        last_hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(checkpoints.as_dict(self.rule, state_dict))
        finally:
            last_hook.remove()
            self.__dict__.pop("_loaded", None)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_backend": self._backend, "_warnings": self._warnings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        add_lock(self)
        self._discard_cache()
        # torch's `load_state_dict` has cast the state. It is replaced here, before hooks see it.
        loaded = self.__dict__.pop("_loaded", {})
        if loaded:
            self._end_evaluation(stay=loaded["_mode"].evaluating)
        super().__setstate__({"_mode": Mode()} | state | loaded)


CLASSES: dict[Rule, type[RuleOptimizer]] = {}  # the class of each rule that has one
