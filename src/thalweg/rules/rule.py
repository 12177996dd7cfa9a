"""Rule: what an optimizer is, before anyone decides how to run it.

A rule is a frozen dataclass whose fields are hyperparameters and whose methods are pure functions. It has

    coefficients(step)                          every scalar of the step, in Python's float64, outside the kernel
    direction(param, grad, state, c)            the step before learning rate and decay, and the new state
    apply(param, direction, c)                  the new parameter

`update` is the two in a row. Numbers enter `direction` and `apply` through `c` alone, never through `self`: so a
schedule cannot recompile a kernel, and a population of settings is one program. Switches (`amsgrad`) and the layout of
the state are read from `self`: they choose between programs.

`direction` and `apply` may be generators that yield reductions (see `reductions`); the engine answers them.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from thalweg.errors import KeywordError, SettingError, nearest
from thalweg.rules.hyper import Hyper
from thalweg.rules.reductions import Asking
from thalweg.rules.rows import row

Scope = Literal["elementwise", "tensor", "matrix", "model"]


@dataclass(frozen=True)
class Leaf:
    """One tensor of a rule's state: its unit, its name in a `state_dict`, its first value, and when it exists."""

    unit: str
    key: str
    fill: Callable[[Any], float]
    when: Callable[[Any, torch.Size], bool]
    without_dim: int | None

    def shape(self, param: torch.Size) -> torch.Size:
        """The shape of this tensor for a parameter of shape `param`."""
        sizes = list(param)
        if self.without_dim is not None:
            del sizes[self.without_dim]
        return torch.Size(sizes)


def like_param(
    *,
    unit: str,
    key: str,
    fill: Callable[[Any], float] = lambda rule: 0.0,
    when: Callable[[Any, torch.Size], bool] = lambda rule, shape: True,
    without_dim: int | None = None,
) -> Any:
    """Declare a tensor of the state that is shaped like the parameter, or like it `without_dim`.

    `key` is its name in a `state_dict` (torch's, where torch has the optimizer); `fill(rule)` its first value;
    `when(rule, shape)` whether it exists for these settings and this shape of parameter.
    """
    return Leaf(unit, key, fill, when, without_dim)


def steps(result: Any) -> Asking:
    """Run what a `direction` or `apply` returned: a value, or a generator that asks for reductions first."""
    return (yield from result) if inspect.isgenerator(result) else result


@cache
def _declared(rule: Any) -> dict[str, Hyper]:
    return {one.name: one.metadata["hyper"] for one in fields(rule) if "hyper" in one.metadata}


class Rule:
    """The base of every optimizer's formula. Concrete rules are final: to change one, wrap it."""

    scope: ClassVar[Scope]
    takes_sparse: ClassVar[bool] = False  # whether sparse gradients make sense, as they do in torch.optim

    class State:
        """Nothing is remembered unless a rule declares it."""

    def __init_subclass__(cls, *, scope: Scope | None = None) -> None:
        if scope is not None:
            assert scope in get_args(Scope), f"scope must be one of {get_args(Scope)}, got {scope!r}"
            cls.scope = scope

    def __post_init__(self) -> None:
        for name, declared in self.hypers().items():
            self._check(name, declared, getattr(self, name))
        self.check_together()

    def _check(self, name: str, declared: Hyper, value: Any) -> None:
        who = f"{type(self).__name__}: {name}"
        if isinstance(value, Tensor):  # its value is not read: that could wait for a device
            if value.numel() != 1:
                raise SettingError(f"{who} must be one number, got a tensor of shape {tuple(value.shape)}.")
            return
        if declared.bound is None:
            if not isinstance(value, bool):
                raise SettingError(f"{who} must be True or False, got {value!r}.")
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise SettingError(f"{who} must be a number {declared.bound}, got {value!r}.")
        elif float(value) not in declared.bound:
            raise SettingError(f"{who} must be {declared.bound}, got {value!r}. The default is {declared.default!r}.")

    def check_together(self) -> None:
        """Raise SettingError for settings that are each within bounds but do not go together."""

    @property
    def rests(self) -> bool:
        """Whether a zero gradient leaves parameter and state as they are, at these settings."""
        return False

    @classmethod
    def hypers(cls) -> dict[str, Hyper]:
        """What is declared of each hyperparameter, by field name."""
        return _declared(cls)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are

    def settings(self) -> dict[str, Any]:
        """The value of each hyperparameter."""
        return {name: getattr(self, name) for name in self.hypers()}

    def with_(self, **settings: Any) -> Self:
        """This rule with some settings changed; an unknown one raises KeywordError."""
        for name in settings:
            if name not in self.hypers():
                raise KeywordError(
                    f"{type(self).__name__}: the settings are {', '.join(self.hypers())}, got {name!r}. "
                    f"{nearest(name, self.hypers())}"
                )
        # Not `replace`, which would check every setting anew: populations and schedules do this at every step.
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, **settings)
        for name in settings:
            changed._check(name, self.hypers()[name], settings[name])
        changed.check_together()
        return changed

    def layout(self, shape: torch.Size) -> dict[str, Leaf]:
        """The tensors that these settings remember for a parameter of this shape, by field name."""
        leaves = {name: leaf for name, leaf in vars(self.State).items() if isinstance(leaf, Leaf)}
        return {name: leaf for name, leaf in leaves.items() if leaf.when(self, shape)}

    def init(self, param: Tensor) -> Any:
        """The state before the first step: a row of tensors of the parameter's dtype, device and order in memory."""

        def first(leaf: Leaf) -> Tensor:
            if leaf.without_dim is None:
                return torch.full_like(param, leaf.fill(self), requires_grad=False)
            return param.new_full(leaf.shape(param.shape), leaf.fill(self))

        return row(**{name: first(leaf) for name, leaf in self.layout(param.shape).items()})

    def state_numel(self, shape: torch.Size) -> int:
        """How many numbers are remembered for a parameter of this shape."""
        return sum(leaf.shape(shape).numel() for leaf in self.layout(shape).values())

    def coefficients(self, step: int) -> Any:
        """Every scalar that step number `step` (from 1) needs, as a row."""
        raise NotImplementedError

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        """(the step before learning rate and decay, the new state); may yield reductions."""
        raise NotImplementedError

    def apply(self, param: Tensor, direction: Tensor, c: Any) -> Any:
        """The new parameter, θ - η d unless the rule says otherwise; may yield reductions."""
        return param - c.lr * direction

    def update(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Asking:
        """One step of one tensor: (the new parameter, the new state)."""
        direction, new_state = yield from steps(self.direction(param, grad, state, c))
        new_param = yield from steps(self.apply(param, direction, c))
        return new_param, new_state
