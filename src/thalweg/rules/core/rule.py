"""Rule: what an optimizer is, before anyone decides how to run it.

A rule is a frozen dataclass whose fields are hyperparameters and whose methods are pure functions. It has

    coefficients(step)                          every scalar of the step, in Python's float64, outside the kernel
    direction(param, grad, state, c)            the step before learning rate and decay, and the new state
    apply(param, direction, state, c)           the new parameter, and the new state

`update` is the two in a row. Numbers enter `direction` and `apply` through `c` alone, never through `self`: so a
schedule cannot recompile a kernel, and a population of settings is one program. Switches (`amsgrad`) and the layout of
the state are read from `self`: they choose between programs.

`direction` and `apply` may be generators that yield reductions (see `reductions`); the engine answers them.
"""

from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import KeywordError, nearest
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import SCOPES, Traits

MAX_DIMS = 6  # of parameters, for rules that declare something for each dimension


@cache
def own_hypers(kind: Any) -> dict[str, Hyper]:
    """What a class of rules declares of each hyperparameter of its own, by field name."""
    return {one.name: one.metadata["hyper"] for one in fields(kind) if "hyper" in one.metadata}


class Rule:
    """The base of every optimizer's formula. Concrete rules are final: to change one, wrap it."""

    declared_traits: ClassVar[Traits] = Traits()  # those of the class; `traits` are those of a rule at its settings
    _own_traits: ClassVar[Mapping[str, Any]] = {}

    class State:
        """Nothing is remembered unless a rule declares it."""

    def __init_subclass__(cls, **traits: Any) -> None:
        """Declare traits by class keywords, as in `class SGD(Rule, scope="elementwise", supports_sparse=True)`."""
        if "scope" in traits:
            assert traits["scope"] in SCOPES, f"scope must be one of {SCOPES}, got {traits['scope']!r}"
            traits["needs_whole_matrices"] = traits["scope"] == "matrix"
        cls._own_traits = traits
        declared = [vars(base).get("_own_traits", {}) for base in reversed(cls.__mro__)]
        cls.declared_traits = Traits(**{name: value for base in declared for name, value in base.items()})

    def __post_init__(self) -> None:
        for name, declared in own_hypers(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            declared.check(f"{self.name}: {name}", getattr(self, name))
        self.check_together()

    def check_together(self) -> None:
        """Raise SettingError for settings that are each within bounds but do not go together."""

    @cached_property
    def traits(self) -> Traits:
        """The traits at these settings. A rule whose traits depend on its settings overrides this."""
        return self.declared_traits

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return type(self).__name__

    @property
    def code_key(self) -> Hashable:
        """What chooses the code of a step: the class and the switches, but no number."""
        own = own_hypers(type(self))  # type: ignore[arg-type]
        return type(self), tuple(getattr(self, name) for name, declared in own.items() if declared.is_switch)

    @property
    def parts(self) -> "Mapping[str, Rule]":
        """The rules that it is made of, each for parameters of its own, by what they are called; empty for one rule."""
        return {}

    def hypers(self) -> dict[str, Hyper]:
        """What is declared of each hyperparameter, by name."""
        return own_hypers(type(self))  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """The value of each hyperparameter."""
        return {name: getattr(self, name) for name in self.hypers()}

    def at_defaults(self) -> Self:
        """This rule with every setting at its default."""
        return self._with({name: declared.default for name, declared in self.hypers().items()})

    def with_(self, **settings: Any) -> Self:
        """This rule with some settings changed; an unknown one raises KeywordError."""
        declared = self.hypers()
        for name in settings:
            if name not in declared:
                raise KeywordError(
                    f"{self.name}: the settings are {', '.join(declared)}, got {name!r}. {nearest(name, declared)}"
                )
        return self._with(settings)

    def _with(self, settings: dict[str, Any]) -> Self:
        # Not `replace`, which would check every setting anew: populations and schedules do this at every step.
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, **settings)
        changed.__dict__.pop("traits", None)  # they may depend on settings
        declared = own_hypers(type(self))  # type: ignore[arg-type]
        for name in settings.keys() & declared.keys():
            declared[name].check(f"{self.name}: {name}", settings[name])
        changed.check_together()
        return changed

    def for_step(self, step: int) -> Self:
        """The rule of step number `step`, where rules take turns."""
        return self

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        """The tensors that these settings remember for a parameter of this shape, by field name."""
        leaves = {name: leaf for name, leaf in vars(self.State).items() if isinstance(leaf, StateTensor)}
        return {name: replace(leaf, rule=self) for name, leaf in leaves.items() if leaf.when(self, shape)}

    def init(self, param: Tensor) -> Any:
        """The state before the first step: a row of tensors of the parameter's dtype, device and order in memory."""
        layout = self.layout(param.shape)
        return record(**{name: leaf.first(leaf.rule, param.detach()) for name, leaf in layout.items()})

    def state_numel(self, shape: torch.Size) -> int:
        """How many numbers are remembered for a parameter of this shape."""
        return sum(leaf.shape(shape).numel() for leaf in self.layout(shape).values())

    def coefficients(self, step: int) -> Any:
        """Every scalar that step number `step` (from 1) needs, as a row."""
        raise NotImplementedError

    def rate(self, step: int) -> Any:
        """The learning rate of step number `step`, as it is set, before what the rule makes of it."""
        return self.settings()["lr"]

    def decay_factor(self, step: int) -> float | None:
        """What a decay beside the step leaves of a parameter at step number `step`, as a share; None if there is none.

        Such decays have the coefficient `shrink`, and `left` in wrappers.
        """
        c = self.coefficients(step)
        shares = [getattr(c, name) for name in ("shrink", "left") if name in c._fields]
        return min(shares) if shares else None

    def next_recurrent_scalars(self, step: int, before: Any) -> dict[str, float]:
        """Scalars of step number `step` that depend on the step before, whose recurrent scalars are `before`.

        Every `recurrent_scalars` name is among them. They are kept for each parameter, in float64, under their names.
        """
        return {}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        """(the step before learning rate and decay, the new state); may yield reductions."""
        raise NotImplementedError

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        """(the new parameter, the new state): θ - η d unless the rule says otherwise; may yield reductions."""
        return param - c.lr * direction, state

    def update(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        """One step of one tensor: (the new parameter, the new state)."""
        direction, state = yield from resolve_reductions(self.direction(param, grad, state, c))
        return (yield from resolve_reductions(self.apply(param, direction, state, c)))

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> Any:
        """Where the gradient of the step is to be taken, for rules that need a second one; may yield reductions."""
        raise NotImplementedError

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Any:
        """The new state, given an estimate of the Hessian's diagonal, for rules that need it."""
        raise NotImplementedError

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        """The parameter at which the model is to be used, if that is elsewhere; `c` is that of the last step."""
        return param
