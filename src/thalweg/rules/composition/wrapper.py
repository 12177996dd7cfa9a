"""Wrapper: a rule around another rule, of which it changes one thing.

    Cautious(AdamW(lr=3e-4))          Clip(SGD(momentum=0.9), max_norm=1.0)

A wrapper overrides what it changes and leaves the rest to `inner`: `gradient` (what the inner rule is given),
`direction` (what it proposes), `apply` (where that leads), or `evaluation_point`. So wrappers nest: of those that
change gradients the outermost acts first, of those that change parameters the innermost (a decay comes before the
step). What does not go together is in `compatibility`.

Settings, scalars and state of a nest are flat: each has one name in the whole of it. So `group["lr"]` is the learning
rate wherever it is declared, schedulers need not know of wrappers, and kernels and populations see one row.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition import compatibility
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.rule import Rule, own_hypers
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits

_SHAPE = torch.Size([2, 2])


def _names(layout: dict[str, StateTensor]) -> set[str]:
    return {*layout, *(leaf.key for leaf in layout.values())}


@dataclass(frozen=True)
class Wrapper(Rule):
    """A rule around another one. Abstract."""

    inner: Rule

    effects: ClassVar[frozenset[compatibility.Effect]] = frozenset()  # what not every rule stands
    replaces: ClassVar[frozenset[str]] = frozenset()  # settings that, if `inner` has them, are 0 there and set here

    def __init_subclass__(cls, **traits: Any) -> None:
        """Declare the wrapper's own traits; those of a rule that has it around itself follow from both."""
        implied = {trait: True for effect, trait in compatibility.IMPLIED_TRAITS.items() if effect in cls.effects}
        super().__init_subclass__(**implied, **traits)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Rule):
            raise SettingError(
                f"{type(self).__name__}: inner must be a rule, got {self.inner!r:.60}. Pass AdamW(), say."
            )
        if self.inner.traits.needs == "closure":
            # What changes a gradient or a step would leave a line search without a line along which the loss falls.
            raise SettingError(
                f"{type(self).__name__}: the inner rule must take one step at a time, got {self.inner.name}, which "
                "tries several lengths of it under a closure. Use that one by itself, or wrap another one."
            )
        compatibility.check(self.effects, type(self).__name__, self.inner)
        own, inner = own_hypers(type(self)), self.inner.hypers()  # type: ignore[arg-type]
        core = unwrap(self.inner)
        replaced = {name for name in self.replaces & inner.keys() if inner[name] is core.hypers().get(name)}
        if twice := own.keys() & inner.keys() - replaced:
            raise SettingError(
                f"{type(self).__name__}: each setting must have a name of its own, got {', '.join(sorted(twice))} "
                f"twice. Wrap a rule that has none."
            )
        for name in replaced:
            if self.inner.settings()[name] != 0:
                raise SettingError(
                    f"{type(self).__name__}: {name} of the inner rule must be 0, since this one is in its place, got "
                    f"{self.inner.settings()[name]!r}. Pass {name} here alone."
                )
        if twice := _names(super().layout(_SHAPE)) & _names(self.inner.layout(_SHAPE)):
            raise SettingError(
                f"{type(self).__name__}: what it remembers must have names of its own, got {', '.join(sorted(twice))} "
                f"twice, as {self.inner.name} has it. Wrap another rule."
            )
        if self.inner.traits.needs != "gradient" != self.declared_traits.needs:
            raise SettingError(
                f"{type(self).__name__}: the inner rule must need gradients alone, got {self.inner.name}, which needs "
                f"{self.inner.traits.needs}. Wrap another one."
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.inner.name})"

    @property
    def code_key(self) -> Hashable:
        return super().code_key, self.inner.code_key

    @cached_property
    def traits(self) -> Traits:
        return self.inner.traits.wrap(self.declared_traits)

    @property
    def parts(self) -> Mapping[str, Rule]:
        return self.inner.parts

    def for_step(self, step: int) -> Self:
        return super()._with({"inner": self.inner.for_step(step)})

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers() | own_hypers(type(self))  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        return self.inner.settings() | {name: getattr(self, name) for name in own_hypers(type(self))}  # type: ignore[arg-type]

    def _with(self, settings: dict[str, Any]) -> Self:
        declared = own_hypers(type(self))  # type: ignore[arg-type]
        own = {name: value for name, value in settings.items() if name in declared}
        theirs = {name: value for name, value in settings.items() if name not in declared}
        return super()._with({"inner": self.inner._with(theirs), **own} if theirs else own)

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        return self.inner.layout(shape) | super().layout(shape)

    def rate(self, step: int) -> Any:
        return self.inner.rate(step)

    def coefficients(self, step: int) -> Any:
        return record(**self.inner.coefficients(step)._asdict(), **self.own_coefficients(step))

    def own_coefficients(self, step: int) -> dict[str, Any]:
        """What the wrapper adds to the scalars of step number `step`; its names must not be those of any rule."""
        return {}

    def next_recurrent_scalars(self, step: int, before: Any) -> dict[str, float]:
        return self.inner.next_recurrent_scalars(step, before)

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        """(the gradient that the inner rule is to see, the new state); may yield reductions."""
        return grad, state

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        grad, state = yield from resolve_reductions(self.gradient(param, grad, state, c))
        return (yield from resolve_reductions(self.inner.direction(param, grad, state, c)))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return self.inner.apply(param, direction, state, c)

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> Any:
        return self.inner.perturb(param, grad, c)

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Any:
        return self.inner.update_curvature(state, curvature, c)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return self.inner.evaluation_point(param, state, c)


def unwrap(rule: Rule) -> Rule:
    """The rule that wrappers are around."""
    while isinstance(rule, Wrapper):
        rule = rule.inner
    return rule
