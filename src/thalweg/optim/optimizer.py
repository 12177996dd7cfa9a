"""`RuleOptimizer`: the one class that makes a `torch.optim.Optimizer` of a rule."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine import backends, curvature
from thalweg.engine.core import precision
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError
from thalweg.optim import checkpoints, closure_steps, keywords, signatures
from thalweg.optim.binding import step_differentiably, step_in_place
from thalweg.optim.execution_plan import ExecutionPlan, make_plan, stateless_runners
from thalweg.optim.parameter_checks import as_entries, as_list, can_be_trained, check_parameter
from thalweg.optim.parameter_swap import ParameterSwap
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.optim.step_lock import add_lock, one_at_a_time
from thalweg.optim.step_preparation import StepPreparation
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import find_conflicts


class RuleOptimizer(StepPreparation):
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
        params = as_list(self._who, params)
        self._warnings = WarnOnce()
        add_lock(self)
        common = {"maximize": maximize, "rounding": rounding, "seed": seed}
        defaults = keywords.plain_settings(self.rule, keywords.defaults_of(self.rule, args, settings) | common)
        if (defaults["rounding"], defaults["seed"]) == ("nearest", 0):  # then groups have the keys of torch's groups
            del defaults["rounding"], defaults["seed"]
        if requested.get("differentiable"):  # torch's base class reads it from the defaults
            defaults["differentiable"] = True
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
        for entry in params:
            param = entry[1] if isinstance(entry, tuple) else entry
            check_parameter(self._who, rule, param, group.get("rounding", "nearest"))
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
            closure: A function that zeroes the gradients, computes the loss, calls ``backward()`` and returns the
                loss. L-BFGS and rules that perturb the parameters (SAM) need it; for others it is optional.

        Returns:
            The result of the first call of the closure, or None.

        Raises:
            ParameterError: If a gradient does not fit its parameter, if the closure is missing, or if the parameters
                are those of evaluation.
        """
        if self._swap:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to take a step, got those of evaluation. "
                "Call optimizer.train() first."
            )
        if self.rule.traits.needs == "closure":
            closure_steps.check_groups(self.rule, self.param_groups)
            group = self.param_groups[0]
            rule = keywords.to_rule(self.rule, group)
            closure = self._required(closure, "several losses and gradients")
            return closure_steps.run(rule, group["maximize"], closure, self._prepare_steps)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.rule.traits.needs == "second gradient":
            self._compute_second_gradients(closure)
        # All steps are prepared, and bad gradients refused, before the first parameter is written.
        self._take(1)
        if self._bindings.has_duplicates:  # as in torch, a parameter that a group has twice takes two steps
            occurrence = 2
            while self._take(occurrence):
                occurrence += 1
        return loss

    def _take(self, occurrence: int) -> bool:
        """Step the parameters that a group has `occurrence` times or more; return True if there are any."""
        if not self.defaults.get("differentiable"):
            prepared = self._prepare_steps(occurrence)
            step_in_place(prepared)
            return bool(prepared)
        with torch.enable_grad():
            self._programs.clear()  # gradients reach the settings that the groups hold now
            with keywords.no_gradient_is_lost(self.rule):
                prepared = self._prepare_steps(occurrence)
                keywords.check_recurrent_scalars(self.rule, [step for _, step in prepared])
            step_differentiably(prepared)
        return bool(prepared)

    def _compute_second_gradients(self, closure: Callable[[], Any] | None) -> None:
        """Replace the gradients at the parameters by those at the perturbed parameters."""
        closure = self._required(closure, "a second gradient")
        items = [item for binding, step in self._prepare_steps() for item in binding.items(step)]
        swap = ParameterSwap()
        try:
            swap.swap_in(zip([item.param for item in items], loop.perturbed_parameters(items), strict=True))
            self.zero_grad()
            with torch.enable_grad():
                closure()
        finally:
            swap.restore(self._who)

    def _required(self, closure: Callable[[], Any] | None, reason: str) -> Callable[[], Any]:
        if closure is None:
            raise ParameterError(
                f"{self._who}: a step needs {reason}, got no closure. Call optimizer.step(closure) with a "
                "function that zeroes the gradients, computes the loss, calls backward() and returns the loss."
            )
        return closure

    def eval(self) -> None:
        """Give the parameters the values at which the model is to be evaluated.

        Schedule-Free rules and averages evaluate the model at other values than they train it at. For all other rules
        this does nothing, so a training loop may always call it.
        """
        if self._swap or not self.rule.traits.has_eval_params:
            return
        self._follow_state()
        for number, group in enumerate(self.param_groups):
            program_for = self._program_for(number, ahead=0)
            params = [param for param in self._distinct(group["params"]) if self.state.get(param)]
            for binding, _ in self._bind(params, program_for):
                self._swap.swap_in(binding.evaluation_points(program_for(binding.dtype)))

    def train(self) -> None:
        """Give the parameters the values again that they are trained at.

        Raises:
            ParameterError: If other code has written to the parameters since ``eval``, at the first call only.
        """
        self._swap.restore(self._who)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context in which the parameters have the values at which the model is to be evaluated.

        Example:
            >>> import torch
            >>> from thalweg import optim
            >>> model = torch.nn.Linear(4, 1)
            >>> optimizer = optim.ScheduleFreeAdamW(model.parameters())
            >>> with optimizer.evaluating():
            ...     prediction = model(torch.ones(1, 4))
        """
        try:
            self.eval()
            yield
        finally:
            self.train()

    def estimate_curvature(self, loss: Tensor) -> None:
        """Estimate the diagonal of the loss's Hessian and store it, for rules that need it (AdaHessian, Sophia).

        The estimate is Hutchinson's, from random signs. They are drawn anew at each call from the seed of the group.

        Args:
            loss: The loss, of shape ``()``, with its graph. The graph is retained: ``loss.backward()`` may follow.

        Raises:
            ParameterError: If the rule does not use curvature.
        """
        groups = [(group, self._distinct(group["params"])) for group in self.param_groups]
        trained = [(group, param) for group, params in groups for param in params if param.requires_grad]
        params = [param for _, param in trained]
        signs = [
            curvature.signs(param, group.get("seed", 0), position, self._step_count([param]))
            for position, (group, param) in enumerate(trained)
        ]
        grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        estimates = dict(zip(map(id, params), curvature.hutchinson(grads, params, signs), strict=True))
        self._update_curvature(lambda param: estimates.get(id(param)))

    def absorb_gauss_newton(self, num_examples: int) -> None:
        """Store an estimate of the Gauss-Newton diagonal: `num_examples` times the squared gradients.

        The gradients must be those of a mean loss over examples whose labels were drawn from the model's own
        predictions (Gauss-Newton-Bartlett; Liu et al. 2023, arXiv:2305.14342, Algorithm 2).

        Args:
            num_examples: The number of examples of the mean loss.

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
        self._follow_state()
        for number, group in enumerate(self.param_groups):
            program_for = self._program_for(number)
            params = self._distinct(group["params"])
            estimates = {id(param): value for param in params if (value := estimate(param)) is not None}
            params = [param for param in params if id(param) in estimates]
            for binding, _ in self._bind(params, program_for) if params else []:
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

    def _stateless_runners(self) -> list[backends.BatchRunner]:
        """Return the runner that each parameter would have without state, in the order of the optimizer."""
        return [
            runner
            for number, group in enumerate(self.param_groups)
            for runner in stateless_runners(
                list(filter(can_be_trained, group["params"])), self._program_for(number), self._backend
            )
        ]

    @cached_property
    def _swap(self) -> ParameterSwap:
        """True while the parameters are those of evaluation."""
        return ParameterSwap()

    def _check_training(self) -> None:
        if self._swap:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to be saved, loaded or copied, got those of "
                "evaluation. Call optimizer.train() first."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint of torch, and under ``"rule"`` the name of the rule.

        Raises:
            ParameterError: If the parameters are those of evaluation.
        """
        self._check_training()
        return super().state_dict() | {"rule": self.rule.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of torch's class of the same name.

        torch casts state to the dtype of the parameter (pytorch#43706). Here state keeps the dtype it was saved in. A
        checkpoint is checked as a whole before anything is changed.

        Args:
            state_dict: The result of ``state_dict()``.

        Raises:
            ParameterError: If the checkpoint does not fit, or the parameters are those of evaluation.
            SettingError: If a saved setting is out of its bounds.
        """
        self._check_training()

        def check(_: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> dict[str, Any]:
            checkpoint, self._loaded = checkpoints.prepare(self.rule, self.defaults, self.param_groups, checkpoint)
            return checkpoint

        # Hooks run in the order they were registered: this one, the last, sees the final checkpoint.
        last_hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()
            self.__dict__.pop("_loaded", None)

    def __getstate__(self) -> dict[str, Any]:
        self._check_training()
        return super().__getstate__() | {"_backend": self._backend, "_warnings": self._warnings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        add_lock(self)
        self._discard_cache()
        loaded = self.__dict__.pop("_loaded", None)
        # torch's `load_state_dict` has cast the state. It is replaced here, before hooks see it.
        super().__setstate__(state if loaded is None else state | {"state": loaded})


CLASSES: dict[Rule, type[RuleOptimizer]] = {}  # the class of each rule that has one
