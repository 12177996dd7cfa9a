"""Wrapper: a rule around another rule, of which it changes one thing.

    Cautious(AdamW(lr=3e-4))          Clip(SGD(momentum=0.9), max_norm=1.0)

A wrapper overrides the method that it changes and leaves the rest to `inner`: `gradient` (the input of the inner rule),
`direction` (its proposal), `apply` (the result), or `evaluation_point`. So wrappers nest: of those that change
gradients the outermost acts first, of those that change parameters the innermost (a decay comes before the step).
The table in `compatibility` says which nests are wrong.

Settings, scalars and state of a nest are flat: each has one name in the whole nest. So `group["lr"]` is the learning
rate wherever it is declared, schedulers need not know of wrappers, and kernels and populations see one record.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError, shown
from thalweg.rules.composition.compatibility import IMPLIED_TRAITS, Effect, check_compatibility
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import Record, record
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.rule import Rule, StepResult
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits

_SHAPE = torch.Size([2, 2])  # of any matrix


def _names(layout: dict[str, StateTensor]) -> set[str]:
    return {*layout, *(tensor.key for tensor in layout.values())}


@dataclass(frozen=True)
class Wrapper(Rule):
    """The base class of rules that change another rule. Abstract.

    A wrapper is a frozen dataclass that overrides :meth:`gradient`, ``direction``, ``apply`` or ``evaluation_point``.

    Attributes:
        inner: The rule inside.
        effects: The effects that not every inner rule allows; see ``thalweg.rules.composition.compatibility``.
        replaced_settings: Names of settings that both may have. They must be 0 in the inner rule.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from thalweg.rules import AdamW, Wrapper
        >>> @dataclass(frozen=True, kw_only=True)
        ... class SignGradient(Wrapper):
        ...     def gradient(self, param, grad, state, c):
        ...         return torch.sign(grad), state
        >>> SignGradient(AdamW(lr=0.01)).name
        'SignGradient(AdamW)'
    """

    inner: Rule

    effects: ClassVar[frozenset[Effect]] = frozenset()
    replaced_settings: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **traits: Any) -> None:
        """Declare the wrapper's own traits; :attr:`traits` merges them with those of the inner rule."""
        implied = {trait: True for effect, trait in IMPLIED_TRAITS.items() if effect in cls.effects}
        super().__init_subclass__(**implied, **traits)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Rule):
            raise SettingError(
                f"{type(self).__name__}: inner must be a rule, got {shown(self.inner, 60)}. Pass one such as AdamW()."
            )
        self._check_needs()
        check_compatibility(type(self).__name__, self.effects, self.inner)
        self._check_settings()
        self._check_state()
        super().__post_init__()

    def _check_needs(self) -> None:
        needs = self.inner.traits.needs
        if needs == "closure":
            # A changed gradient or step would leave a line search without a line along which the loss falls.
            raise SettingError(
                f"{type(self).__name__}: the inner rule must take one step at a time, got {self.inner.name}, which "
                "tries several step lengths with a closure. Use it without a wrapper, or wrap another rule."
            )
        if needs != "gradient" != self.declared_traits.needs:
            raise SettingError(
                f"{type(self).__name__}: the inner rule must need gradients alone, got {self.inner.name}, which needs "
                f"{needs}. Wrap another rule."
            )

    def _check_settings(self) -> None:
        outer, inner = self.declared_hypers(), self.inner.hypers()
        core = unwrap(self.inner).hypers()
        replaced = {name for name in self.replaced_settings & inner.keys() if inner[name] is core.get(name)}
        if duplicates := outer.keys() & inner.keys() - replaced:
            raise SettingError(
                f"{type(self).__name__}: every setting must have a unique name, got {', '.join(sorted(duplicates))} "
                "twice. Wrap a rule that does not have it."
            )
        for name in replaced:
            value = self.inner.settings()[name]
            if value != 0:
                raise SettingError(
                    f"{type(self).__name__}: {name} of the inner rule must be 0, since that of the wrapper replaces "
                    f"it, got {value!r}. Pass {name} to the wrapper only."
                )

    def _check_state(self) -> None:
        if duplicates := _names(super().layout(_SHAPE)) & _names(self.inner.layout(_SHAPE)):
            raise SettingError(
                f"{type(self).__name__}: every state tensor must have a unique name, got "
                f"{', '.join(sorted(duplicates))} twice, since {self.inner.name} has it. Wrap another rule."
            )

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
        return super()._replace({"inner": self.inner.for_step(step)})

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers() | self.declared_hypers()

    def settings(self) -> dict[str, Any]:
        return self.inner.settings() | {name: getattr(self, name) for name in self.declared_hypers()}

    def _replace(self, settings: dict[str, Any]) -> Self:
        declared = self.declared_hypers()
        outer = {name: value for name, value in settings.items() if name in declared}
        inner = {name: value for name, value in settings.items() if name not in declared}
        return super()._replace({"inner": self.inner._replace(inner), **outer} if inner else outer)

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        return self.inner.layout(shape) | super().layout(shape)

    def base_lr(self, step: int) -> Any:
        return self.inner.base_lr(step)

    def coefficients(self, step: int) -> Record:
        return record(**self.inner.coefficients(step)._asdict(), **self.own_coefficients(step))

    def own_coefficients(self, step: int) -> dict[str, Any]:
        """Return the scalars that the wrapper adds to those of step number ``step``. No rule may use their names."""
        return {}

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        return self.inner.next_recurrent_scalars(step, previous)

    def missed_recurrent_scalars(self, previous: Any) -> dict[str, float]:
        return self.inner.missed_recurrent_scalars(previous)

    def model_settings(self) -> dict[str, Any]:
        return self.inner.model_settings() | super().model_settings()

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return self.inner.model_coefficients(step, model_lr)

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> StepResult:
        """Return the gradient that the inner rule receives, and the new state. May yield reductions."""
        return grad, state

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        grad, state = yield from resolve_reductions(self.gradient(param, grad, state, c))
        return (yield from resolve_reductions(self.inner.direction(param, grad, state, c)))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> StepResult:
        return self.inner.apply(param, direction, state, c)

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> Tensor | RequestGenerator:
        return self.inner.perturb(param, grad, c)

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Record:
        return self.inner.update_curvature(state, curvature, c)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return self.inner.evaluation_point(param, state, c)


def unwrap(rule: Rule) -> Rule:
    """Return the rule inside all wrappers."""
    while isinstance(rule, Wrapper):
        rule = rule.inner
    return rule
