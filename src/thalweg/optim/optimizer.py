"""The one mechanism that makes a `torch.optim.Optimizer` out of a rule."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from operator import attrgetter, is_not
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine import backends, curvature
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError, ParameterTypeError
from thalweg.optim import checkpoints, closure_steps, keywords, signatures
from thalweg.optim.binding import Binding, Bindings, GroupBindings, UnknownParameterError, step_differentiably
from thalweg.optim.execution_plan import ExecutionPlan, expected, planned
from thalweg.optim.parameter_checks import check_parameter, check_rounding
from thalweg.optim.parameter_swap import ParameterSwap
from thalweg.optim.setting_warnings import WarnOnce
from thalweg.registry import rule_from_name
from thalweg.rules import Rule
from thalweg.rules.explanation.setting_checks import find_conflicts, schedule_conflict

_GRAD = attrgetter("grad")  # faster in a map than a comprehension


class RuleOptimizer(torch.optim.Optimizer):
    """A rule, run as torch's users expect: groups, schedulers, closures, hooks and checkpoints are torch's own.

    `param_groups` hold torch's keywords and are the only place where settings live, so a scheduler that writes to
    them is all there is to a schedule. `state[param]` holds `step` and the rule's state under torch's keys; state
    keeps its own dtype through `load_state_dict`. The gradient is never written.
    """

    rule: ClassVar[Rule]  # at its default settings

    def __init_subclass__(cls, *, rule: type[Rule] | Rule | None = None) -> None:
        if rule is None:  # a subclass of one of these, with the same formula
            return
        cls.rule = rule = rule() if isinstance(rule, type) else rule
        cls.__signature__ = signatures.signature(rule)  # type: ignore[attr-defined]
        cls.__doc__ = signatures.docstring(rule)
        _MADE.setdefault(rule, cls)

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
        differentiable = bool(settings.get("differentiable"))
        settings = keywords.take_torchs(self.rule, settings)
        keywords.check_backend(self.rule, backend)
        self._backend = backend
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            got = f"one tensor of shape {tuple(params.shape)}" if isinstance(params, Tensor) else type(params).__name__
            raise ParameterTypeError(
                f"{self._who}: params must be a list of tensors, got {got}. Pass [tensor], or model.parameters()."
            )
        params = list(params)
        if not params:
            raise ParameterError(
                f"{self._who}: params must hold at least one parameter, got none. Pass model.parameters(), "
                "and mind that an iterator can be used only once."
            )
        self._said = WarnOnce()
        defaults = keywords.bind(self.rule, args, settings) | {"maximize": maximize}
        if rounding != "nearest" or seed != 0:  # otherwise groups are those of torch
            defaults |= {"rounding": rounding, "seed": seed}
        if differentiable:  # torch's own class reads it there
            defaults["differentiable"] = True
        super().__init__(params, defaults)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch; settings out of bounds and unusable parameters are refused.

        Settings that contradict what the rule declares are warned of: `thalweg.errors.SettingWarning`.
        """
        keywords.check_group(self.rule, param_group)
        taken = keywords.take_torchs(self.rule, param_group)
        group = self.defaults | taken
        keywords.check_common(self.rule, group)
        rule = keywords.to_rule(self.rule, group)
        params = taken["params"]
        if not isinstance(params, Tensor | set):  # torch wraps the one, and refuses the other with a reason
            taken["params"] = params = list(params)
            for entry in params:
                param = entry[1] if isinstance(entry, tuple) else entry
                check_parameter(self._who, rule, param, group.get("rounding", "nearest"))
        # The dictionary of the caller becomes the group, as in torch: both may hold on to it.
        param_group.clear()
        param_group.update(taken)
        super().add_param_group(param_group)
        self._forget()
        for dtype in {param.dtype for param in param_group["params"]}:
            for about, message in find_conflicts(rule, precision.compute_dtype(dtype)).items():
                self._said.once(about, message)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, if given, is called first to compute the loss, which is returned."""
        if self._evaluating:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to take a step, got those of evaluation. "
                "Call optimizer.train() first."
            )
        if self.rule.traits.needs == "closure":
            closure_steps.check_groups(self.rule, self.param_groups)
            group = self.param_groups[0]
            rule = keywords.to_rule(self.rule, group)
            asked = self._asked("several losses and gradients", closure)
            return closure_steps.take(rule, group["maximize"], asked, self._all_ready)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.rule.traits.needs == "second gradient":
            self._take_second_gradient(closure)
        # All steps are made ready, and bad gradients refused, before the first parameter is written.
        ready = self._all_ready()
        if self.defaults.get("differentiable"):
            keywords.check_differentiable(self.rule, self.param_groups)
            step_differentiably(ready)
            for binding, step in ready:
                binding.count(step)
        else:
            # Counted one by one: what fails on the way leaves each batch as before its step, or as after it.
            steps = [(binding.runner, step) for binding, step in ready]
            backends.run(steps, after_batch=lambda k: ready[k][0].count(ready[k][1]))
        return loss

    def _take_second_gradient(self, closure: Callable[[], Any] | None) -> None:
        """Put the gradients at the perturbed parameters in the place of those at the parameters."""
        closure = self._asked("a second gradient", closure)
        items = [item for binding, step in self._all_ready() for item in binding.items(step)]
        moved = ParameterSwap()
        try:
            moved.move(zip([item.param for item in items], loop.perturbed_parameters(items), strict=True))
            self.zero_grad()
            with torch.enable_grad():
                closure()
        finally:
            moved.back(self._who)

    def _asked(self, needs: str, closure: Callable[[], Any] | None) -> Callable[[], Any]:
        """The closure, if there is one."""
        if closure is None:
            raise ParameterError(
                f"{self._who}: a step needs {needs}, got no closure. Call optimizer.step(closure) with a "
                "function that zeroes the gradients, computes the loss, calls backward() and returns the loss."
            )
        return closure

    def _all_ready(self) -> list[tuple[Binding, BatchStep]]:
        self._follow_state()
        return [pair for number in range(len(self.param_groups)) for pair in self._ready(number)]

    def _ready(self, number: int) -> list[tuple[Binding, BatchStep]]:
        """What a group is to do: its parameters that have a gradient, in batches."""
        group = self.param_groups[number]
        params, programs = group["params"], self._programs(number)
        # Before the gradients are looked for: looking where parameters lie brings them into the cache, many at a time.
        bound = self._bindings.known(params, programs)
        grads = list(map(_GRAD, params))
        if not all(map(partial(is_not, None), grads)):
            params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
            grads = [grad for grad in grads if grad is not None]
            bound = None
        if not params:
            return []
        if bound is None:
            bound = self._bound(params, programs)
        ready = []
        for binding, places in bound:
            own = grads if len(places) == len(grads) else [grads[place] for place in places]
            ready.append((binding, binding.step(programs(binding.dtype), own, group.get("seed", 0))))
        return ready

    def _follow_state(self) -> None:
        if self._bindings.state is not self.state:
            self._forget()  # the user has put another one there
        self._bindings.follow_state()

    def _bound(self, params: list[Tensor], programs: Callable[[torch.dtype], Program]) -> GroupBindings:
        try:
            return self._bindings.of(params, programs, self._backend)
        except UnknownParameterError:  # the user has put another one into the group
            self._forget()
            return self._bindings.of(params, programs, self._backend)

    def _programs(self, number: int, *, ahead: int = 1) -> Callable[[torch.dtype], Program]:
        """The program of a group for parameters of a dtype, at the group's settings as they are now.

        It is that of the next step, or `ahead=0` of the last one.
        """
        group = self.param_groups[number]
        settings = keywords.settings(self.rule, group)
        turn = self._taken(group["params"]) + ahead if self.rule.traits.varies_by_step else 0
        kept = (settings, group["maximize"], group.get("rounding", "nearest"), turn)
        if number not in self._read or self._read[number][0] != kept:
            keywords.check_common(self.rule, group)
            rule = self.rule.with_(**settings).for_step(turn)
            if rule.traits.replaces_lr_schedule and "lr" in settings:
                self._highest[number] = highest = max(settings["lr"], self._highest.get(number, 0.0))
                if fallen := schedule_conflict(rule, highest, settings["lr"]):
                    self._said.once("schedule", fallen)

            @cache
            def program(dtype: torch.dtype) -> Program:
                check_rounding(self._who, kept[2], dtype)
                return Program(rule, kept[1], precision.effective_rounding(kept[2], dtype))

            self._read[number] = kept, program
        return self._read[number][1]

    def _taken(self, params: Iterable[Tensor]) -> int:
        """The steps that these parameters have taken, at most."""
        records = (self.state[param] for param in params if self.state.get(param))
        return max((int(record["step"]) for record in records), default=0)

    def eval(self) -> None:
        """Put the parameters where the model is to be used, for rules that train elsewhere (Schedule-Free, averages).

        For other rules nothing happens, so a program that calls it runs with any.
        """
        if self._evaluating or not self.rule.traits.has_eval_params:
            return
        self._follow_state()
        for number, group in enumerate(self.param_groups):
            programs = self._programs(number, ahead=0)
            for binding, _ in self._bound([param for param in group["params"] if self.state.get(param)], programs):
                self._evaluating.move(binding.evaluation_points(programs(binding.dtype)))

    def train(self) -> None:
        """Put the parameters back where they are trained; after `eval`.

        Raises ParameterError, once, if somebody has written to them meanwhile.
        """
        self._evaluating.back(self._who)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """A `with` block in which the parameters are where the model is to be used."""
        try:
            self.eval()
            yield
        finally:
            self.train()

    def estimate_curvature(self, loss: Tensor) -> None:
        """Estimate the Hessian's diagonal of a loss and remember it, for rules that need it (AdaHessian, Sophia).

        Args:
            loss: 0-d, with its graph, which is kept: `loss.backward()` may follow.

        The estimate is that of random signs (Hutchinson), drawn anew at each call from the seed of the group.

        """
        trained = [(group, param) for group in self.param_groups for param in group["params"] if param.requires_grad]
        params = [param for _, param in trained]
        drawn = [
            curvature.signs(param, group.get("seed", 0), position, self._taken([param]))
            for position, (group, param) in enumerate(trained)
        ]
        grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        estimates = dict(zip(map(id, params), curvature.hutchinson(grads, params, drawn), strict=True))
        self._absorb(lambda param: estimates.get(id(param)))

    def absorb_gauss_newton(self, num_examples: int) -> None:
        """Remember an estimate of the Gauss-Newton diagonal: `num_examples` times the squares of the gradients.

        The gradients must be those of a mean loss over so many examples whose labels were drawn from the model's own
        predictions (Gauss-Newton-Bartlett; Liu et al. 2023, arXiv:2305.14342, Algorithm 2).
        """
        self._absorb(lambda param: None if param.grad is None else num_examples * param.grad.detach().square())

    @torch.no_grad()
    def _absorb(self, estimate: Callable[[Tensor], Tensor | None]) -> None:
        if self.rule.traits.needs != "curvature":
            raise ParameterError(
                f"{self._who}: the rule must use estimates of curvature, and it does not. Leave the call out."
            )
        self._follow_state()
        for number, group in enumerate(self.param_groups):
            programs = self._programs(number)
            found = {id(param): value for param in group["params"] if (value := estimate(param)) is not None}
            params = [param for param in group["params"] if id(param) in found]
            for binding, _ in self._bound(params, programs) if params else []:
                binding.update_curvature(programs(binding.dtype), [found[id(param)] for param in binding.params])

    # What was read off groups and state, for speed. It is made again whenever it is missing or no longer true.

    def _forget(self) -> None:
        self.__dict__.pop("_bindings", None)
        self.__dict__.pop("_read", None)
        self.__dict__.pop("_highest", None)

    @cached_property
    def _bindings(self) -> Bindings:
        return Bindings([group["params"] for group in self.param_groups], self.state)

    @cached_property
    def _read(self) -> dict[int, Any]:
        return {}

    @cached_property
    def _said(self) -> WarnOnce:
        return WarnOnce()

    @cached_property
    def _highest(self) -> dict[int, float]:
        """The highest learning rate that each group was stepped with."""
        return {}

    @cached_property
    def _evaluating(self) -> ParameterSwap:
        return ParameterSwap()

    def _not_evaluating(self) -> None:
        if self._evaluating:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to be saved, loaded or copied, got those of "
                "evaluation. Call optimizer.train() first."
            )

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and under "rule" whose it is; refused while the parameters are those of evaluation."""
        self._not_evaluating()
        return super().state_dict() | {"rule": self.rule.name}

    def __getstate__(self) -> dict[str, Any]:
        self._not_evaluating()
        return super().__getstate__() | {"_backend": self._backend, "_said": self._said}

    def __reduce__(self) -> Any:
        if _MADE.get(self.rule) is type(self) and type(self).__module__ == __name__:
            # A class made by `optimizer_for` is in no module; its rule is.
            return _blank, (self.rule,), self.__getstate__()
        return super().__reduce__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        loaded = self.__dict__.pop("_loaded", None)
        # What torch's `load_state_dict` has cast is replaced here, before hooks see it.
        super().__setstate__(state if loaded is None else state | {"state": loaded})

    @property
    def plan(self) -> ExecutionPlan:
        """How each parameter is run now, and why; parameters that have had no gradient yet, how they will be."""
        return planned(self.param_groups, self._expected(), self._bindings.runners())

    def prepare(self) -> ExecutionPlan:
        """Wait until every kernel that the plan needs is compiled; nothing else of the optimizer changes."""
        for runner in self._expected():
            runner.resolve(wait=True)
        return self.plan

    def _expected(self) -> list[backends.BatchRunner]:
        """How each parameter would be run if it had no state, in the order of the optimizer."""
        groups = enumerate(self.param_groups)
        return [
            one for number, group in groups for one in expected(group["params"], self._programs(number), self._backend)
        ]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of torch's class of the same name; another one's raises ParameterError.

        torch casts state to the dtype of the parameter (pytorch#43706); here it keeps the dtype it was saved in. What
        cannot be loaded is refused before anything is changed.
        """
        self._not_evaluating()

        def take(_: torch.optim.Optimizer, final: dict[str, Any]) -> dict[str, Any]:
            final, self._loaded = checkpoints.taken(self.rule, self.defaults, self.param_groups, final)
            return final

        # Hooks run in the order they were registered: this one, the last, sees what is loaded in the end.
        last_hook = self.register_load_state_dict_pre_hook(take)
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()
            self.__dict__.pop("_loaded", None)


_MADE: dict[Rule, type[RuleOptimizer]] = {}


def optimizer_for(rule: type[Rule] | Rule | str) -> type[RuleOptimizer]:
    """The optimizer class of a rule, or of its name: the one already made, or a new one for a rule of your own.

    The settings of a rule are the defaults of its class: `optimizer_for(Cautious(AdamW()))(params, lr=3e-4)`.
    """
    rule = rule_from_name(rule) if isinstance(rule, str) else rule() if isinstance(rule, type) else rule
    return _MADE.get(rule) or type(rule.name, (RuleOptimizer,), {}, rule=rule)


def _blank(rule: Rule) -> RuleOptimizer:
    made = optimizer_for(rule)
    return made.__new__(made)
