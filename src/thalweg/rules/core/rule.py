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
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from thalweg.errors import KeywordError, nearest
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor

Scope = Literal["elementwise", "tensor", "matrix", "model"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # from narrow to wide
MAX_DIMS = 6  # of parameters, for rules that declare something for each dimension
# What a step needs: a gradient at θ; a second one at `perturb`ed parameters; estimates of the Hessian's diagonal; or a
# closure, which is called for as many points as it takes (`optim.iterations`).
Needs = Literal["gradient", "second gradient", "curvature", "closure"]


@cache
def own_hypers(kind: Any) -> dict[str, Hyper]:
    """What a class of rules declares of each hyperparameter of its own, by field name."""
    return {one.name: one.metadata["hyper"] for one in fields(kind) if "hyper" in one.metadata}


class Rule:
    """The base of every optimizer's formula. Concrete rules are final: to change one, wrap it."""

    scope: ClassVar[Scope]
    supports_sparse: ClassVar[bool] = False  # whether sparse gradients make sense, as they do in torch.optim
    supports_complex: ClassVar[bool] = True  # as pairs of real numbers; not where dimensions have a meaning
    min_dims: ClassVar[int] = 0  # that a parameter must have
    max_dims: ClassVar[int | None] = None  # that it may have
    supports_vmap: ClassVar[bool] = (
        True  # its steps do the same things whatever their numbers are, so members can step as one
    )
    corrects_bias: ClassVar[bool] = False  # of averages that start at zero
    lr_in_state: ClassVar[bool] = False  # the learning rate acts on what is remembered, not on a step's size
    estimates_lr: ClassVar[bool] = False  # it learns how long steps should be; the learning rate is a factor of that
    # It goes on from parameters that it remembers, and its steps are not -η times its direction: so nothing beside it
    # may move the parameters, which it would undo or take for its own doing, and nothing may mask its direction.
    owns_parameters: ClassVar[bool] = False
    bounded: ClassVar[bool] = False  # its steps end within bounds
    preserves_norms: ClassVar[bool] = False  # its steps end at the norms they began with
    replaces_lr_schedule: ClassVar[bool] = False  # what it does takes the place of a learning rate that falls
    needs: ClassVar[Needs] = "gradient"
    curvature_interval: ClassVar[int] = 1  # steps from one estimate of curvature to the next, where they are needed
    uses_random_numbers: ClassVar[bool] = (
        False  # random numbers, from the scalars `key_low` and `key_high`, which the engine adds
    )
    varies_by_step: ClassVar[bool] = False  # is another rule from some step on: see `at`
    recurrent_scalars: ClassVar[
        Mapping[str, float]
    ] = {}  # scalars that `next_recurrent_scalars` remembers, with their first values

    class State:
        """Nothing is remembered unless a rule declares it."""

    def __init_subclass__(cls, *, scope: Scope | None = None) -> None:
        if scope is not None:
            assert scope in SCOPES, f"scope must be one of {SCOPES}, got {scope!r}"
            cls.scope = scope

    def __post_init__(self) -> None:
        for name, declared in own_hypers(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            declared.check(f"{self.name}: {name}", getattr(self, name))
        self.check_together()

    def check_together(self) -> None:
        """Raise SettingError for settings that are each within bounds but do not go together."""

    @property
    def noop_on_zero_grad(self) -> bool:
        """Whether a zero gradient leaves parameter and state as they are, at these settings."""
        return False

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
    def needs_whole_matrices(self) -> bool:
        """Whether it needs each matrix whole; the scope of a nest may be wider and not tell."""
        return self.scope == "matrix"

    @property
    def parts(self) -> "Mapping[str, Rule]":
        """The rules that it is made of, each for parameters of its own, by what they are called; empty for one rule."""
        return {}

    @property
    def has_eval_params(self) -> bool:
        """Whether the model is to be used at other parameters than it is trained at: at `evaluation_point`."""
        return False

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
