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
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition import compatibility
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.rule import SCOPES, Needs, Rule, Scope, own_hypers
from thalweg.rules.core.state import StateTensor

_SHAPE = torch.Size([2, 2])


def _names(layout: dict[str, StateTensor]) -> set[str]:
    return {*layout, *(leaf.key for leaf in layout.values())}


@dataclass(frozen=True)
class Wrapper(Rule):
    """A rule around another one. Abstract."""

    inner: Rule

    own_scope: ClassVar[Scope] = "elementwise"
    own_needs: ClassVar[Needs] = "gradient"
    own_uses_random_numbers: ClassVar[bool] = False
    own_supports_vmap: ClassVar[bool] = True
    own_supports_complex: ClassVar[bool] = True
    own_estimates_lr: ClassVar[bool] = False
    effects: ClassVar[frozenset[compatibility.Effect]] = frozenset()  # what not every rule stands
    replaces: ClassVar[frozenset[str]] = frozenset()  # settings that, if `inner` has them, are 0 there and set here

    def __init_subclass__(cls, *, scope: Scope | None = None) -> None:
        if scope is not None:
            cls.own_scope = scope
        super().__init_subclass__()

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Rule):
            raise SettingError(
                f"{type(self).__name__}: inner must be a rule, got {self.inner!r:.60}. Pass AdamW(), say."
            )
        if self.inner.needs == "closure":
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
        if self.inner.needs != "gradient" != self.own_needs:
            raise SettingError(
                f"{type(self).__name__}: the inner rule must need gradients alone, got {self.inner.name}, which needs "
                f"{self.inner.needs}. Wrap another one."
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.inner.name})"

    @property
    def code_key(self) -> Hashable:
        return super().code_key, self.inner.code_key

    @property
    def scope(self) -> Scope:  # type: ignore[override]  # the wider of the two
        return max(self.inner.scope, self.own_scope, key=SCOPES.index)

    @property
    def needs_whole_matrices(self) -> bool:
        return self.own_scope == "matrix" or self.inner.needs_whole_matrices

    @property
    def supports_vmap(self) -> bool:  # type: ignore[override]
        return self.inner.supports_vmap and self.own_supports_vmap

    @property
    def uses_random_numbers(self) -> bool:  # type: ignore[override]
        return self.inner.uses_random_numbers or self.own_uses_random_numbers

    @property
    def supports_complex(self) -> bool:  # type: ignore[override]
        return self.inner.supports_complex and self.own_supports_complex

    @property
    def min_dims(self) -> int:  # type: ignore[override]
        return self.inner.min_dims

    @property
    def max_dims(self) -> int | None:  # type: ignore[override]
        return self.inner.max_dims

    @property
    def corrects_bias(self) -> bool:  # type: ignore[override]
        return self.inner.corrects_bias

    @property
    def lr_in_state(self) -> bool:  # type: ignore[override]
        return self.inner.lr_in_state

    @property
    def estimates_lr(self) -> bool:  # type: ignore[override]
        return self.inner.estimates_lr or self.own_estimates_lr

    @property
    def owns_parameters(self) -> bool:  # type: ignore[override]
        return self.inner.owns_parameters

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        return "bounds" in self.effects or self.inner.bounded

    @property
    def preserves_norms(self) -> bool:  # type: ignore[override]
        return "keeps norms" in self.effects or self.inner.preserves_norms

    @property
    def replaces_lr_schedule(self) -> bool:  # type: ignore[override]
        return self.inner.replaces_lr_schedule

    @property
    def curvature_interval(self) -> int:  # type: ignore[override]
        return self.inner.curvature_interval

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self.inner.needs if self.own_needs == "gradient" else self.own_needs

    @property
    def parts(self) -> Mapping[str, Rule]:
        return self.inner.parts

    @property
    def varies_by_step(self) -> bool:  # type: ignore[override]
        return self.inner.varies_by_step

    def for_step(self, step: int) -> Self:
        return super()._with({"inner": self.inner.for_step(step)})

    @property
    def has_eval_params(self) -> bool:
        return "averages" in self.effects or self.inner.has_eval_params

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

    @property
    def recurrent_scalars(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.inner.recurrent_scalars

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
