"""The rule: the formula of an optimizer, independent of the way it is executed.

A rule is a frozen dataclass. Its fields are hyperparameters; its methods are pure functions::

    coefficients(step)                          all scalars of the step, in Python's float64, outside the kernel
    direction(param, grad, state, c)            the step before learning rate and decay, and the new state
    apply(param, direction, state, c)           the new parameter, and the new state

``update`` calls the last two. Numbers enter ``direction`` and ``apply`` through ``c`` alone, never through ``self``: so
a schedule does not recompile a kernel, and a population of settings is one program. Static hyperparameters
(``amsgrad``) and the layout of the state are read from ``self``: they select the program.

``direction`` and ``apply`` may be generators that yield requests: reductions (see `reductions`) and operations on
matrices (see `matrix_requests`). The engine sends the results.
"""

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache, cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import KeywordError, nearest_setting, shown
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import Record, record
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits

MAX_DIMS = 6  # of a parameter, for rules that declare a state tensor for each dimension

# The result of `direction` and `apply`: a tensor and the new state, or a generator that yields requests first.
StepResult = tuple[Tensor, Record] | RequestGenerator


@cache
def _declared_hypers(rule_class: Any) -> dict[str, Hyper]:
    return {field.name: field.metadata["hyper"] for field in fields(rule_class) if "hyper" in field.metadata}


class Rule:
    """The base class of all formulas of optimizers.

    A concrete rule is a frozen dataclass and is final: to change it, wrap it. Class keywords declare its traits.

    Attributes:
        declared_traits: The traits of the class; :attr:`traits` are those of a rule at its settings.

    Example:
        A rule defines ``coefficients`` and ``direction``, and is run by ``thalweg.optim``:

        >>> from dataclasses import dataclass
        >>> import torch
        >>> from thalweg import optim
        >>> from thalweg.rules import Rule, hyper, record
        >>> @dataclass(frozen=True, kw_only=True)
        ... class SignDescent(Rule, scope="elementwise"):
        ...     lr: float = hyper(1e-3, ">= 0", symbol="η", unit="θ", doc="learning rate")
        ...
        ...     def coefficients(self, step):
        ...         return record(lr=self.lr)
        ...
        ...     def direction(self, param, grad, state, c):
        ...         return torch.sign(grad), state
        >>> param = torch.ones(2, requires_grad=True)
        >>> optimizer = optim.optimizer_for(SignDescent(lr=0.5))([param])
        >>> param.sum().backward()
        >>> optimizer.step()
        >>> param.tolist()
        [0.5, 0.5]
    """

    declared_traits: ClassVar[Traits] = Traits()
    _class_keywords: ClassVar[Mapping[str, Any]] = {}

    class State:
        """The state tensors of a parameter; none unless a rule declares them."""

    def __init_subclass__(cls, **traits: Any) -> None:
        """Declare traits.

        Args:
            **traits: Fields of :class:`Traits`, as in ``class SGD(Rule, scope="elementwise", supports_sparse=True)``.
                All others are inherited.

        Raises:
            KeywordError: If there is no such trait.
            SettingError: If the scope is unknown.
        """
        if "scope" in traits:
            traits["needs_whole_matrices"] = traits["scope"] == "matrix"
        cls._class_keywords = traits
        inherited = [vars(base).get("_class_keywords", {}) for base in reversed(cls.__mro__)]
        merged = {name: value for keywords in inherited for name, value in keywords.items()}
        cls.declared_traits = Traits.declare(cls.__name__, **merged)

    def __post_init__(self) -> None:
        for name, declared in self.declared_hypers().items():
            object.__setattr__(self, name, declared.parse(f"{self.name}: {name}", getattr(self, name)))
        self.check_consistency()

    def check_consistency(self) -> None:
        """Raise SettingError if settings that are each within their bounds contradict each other."""

    @cached_property
    def traits(self) -> Traits:
        """The traits at these settings. A rule whose traits depend on its settings overrides this."""
        return self.declared_traits

    @property
    def name(self) -> str:
        """The name in messages."""
        return type(self).__name__

    @property
    def code_key(self) -> Hashable:
        """The key of the code of a step: the class and the static hyperparameters, but no number."""
        declared = self.declared_hypers().items()
        return type(self), tuple(getattr(self, name) for name, hyper in declared if hyper.is_static)

    @property
    def parts(self) -> "Mapping[str, Rule]":
        """The rules that step different parameters, by name; empty for a rule that steps all of them."""
        return {}

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring of this class: a description of the rule."""
        return (cls.__doc__ or "").partition("\n")[0]

    @classmethod
    def declared_hypers(cls) -> dict[str, Hyper]:
        """Return the hyperparameters that are fields of this class, by name."""
        return _declared_hypers(cls)  # type: ignore[arg-type]  # mypy takes a class for its instances, which may not hash

    def hypers(self) -> dict[str, Hyper]:
        """Return the declarations of all hyperparameters, by name; those of a wrapped rule are included."""
        return self.declared_hypers()

    def settings(self) -> dict[str, Any]:
        """Return the values of all hyperparameters, by name."""
        return {name: getattr(self, name) for name in self.hypers()}

    def at_defaults(self) -> Self:
        """Return this rule with every hyperparameter at its default."""
        return self._replace({name: declared.default for name, declared in self.hypers().items()})

    def with_(self, **settings: Any) -> Self:
        """Return this rule with some settings changed.

        Args:
            **settings: The new values, by the names of :meth:`hypers`.

        Returns:
            A new rule.

        Raises:
            KeywordError: If there is no such hyperparameter.
            SettingError: If a value is out of its bounds, or values contradict each other.

        Example:
            >>> from thalweg.rules import AdamW, Clip
            >>> Clip(AdamW()).with_(lr=0.01).settings()["lr"]
            0.01
        """
        declared = self.hypers()
        for name in settings:
            if name not in declared:
                raise KeywordError(
                    f"{self.name}: the settings are {', '.join(declared)}, got {shown(name)}. "
                    f"{nearest_setting(name, declared)}"
                )
        return self._replace(settings)

    def _replace(self, settings: dict[str, Any]) -> Self:
        # Not `dataclasses.replace`, which would check every setting: populations and schedules call this at every step.
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, **settings)
        changed.__dict__.pop("traits", None)  # they may depend on settings
        declared = self.declared_hypers()
        for name in settings.keys() & declared.keys():
            changed.__dict__[name] = declared[name].parse(f"{self.name}: {name}", settings[name])
        changed.check_consistency()
        return changed

    def for_step(self, step: int) -> Self:
        """Return the rule of step number ``step``, counted from 1; see the trait ``varies_by_step``."""
        return self

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        """Return the state tensors of a parameter of this shape, by field name."""
        declared = {name: tensor for name, tensor in vars(self.State).items() if isinstance(tensor, StateTensor)}
        return {name: tensor.with_rule(self) for name, tensor in declared.items() if tensor.when(self, shape)}

    def init(self, param: Tensor) -> Record:
        """Return the initial state: tensors of the parameter's dtype, device and memory order, by field name."""
        layout = self.layout(param.shape)
        return record(**{name: tensor.init(tensor.rule, param.detach()) for name, tensor in layout.items()})

    def state_numel(self, shape: torch.Size) -> int:
        """Return the number of elements in the state of a parameter of this shape."""
        return sum(tensor.shape(shape).numel() for tensor in self.layout(shape).values())

    def coefficients(self, step: int) -> Record:
        """Return all scalars of step number ``step``, counted from 1, by name."""
        raise NotImplementedError

    def base_lr(self, step: int) -> Any:
        """Return the learning rate of step number ``step`` before the formula changes it."""
        return self.settings()["lr"]

    def decay_factor(self, step: int) -> float | None:
        """Return the factor of a parameter in the decay beside step number ``step``; None if there is no such decay.

        It is the coefficient ``shrink``, in wrappers ``left``.
        """
        c = self.coefficients(step)
        factors = [getattr(c, name) for name in ("shrink", "left") if name in c._fields]
        return min(factors) if factors else None

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        """Return the scalars of step number ``step`` that depend on the step before.

        Args:
            step: The number of the step, counted from 1.
            previous: The recurrent scalars of the step before, by name; at step 1 their initial values.

        Returns:
            Coefficients by name, all ``recurrent_scalars`` of the traits among them. The optimizer keeps these for each
            parameter, in float64.
        """
        return {}

    def missed_recurrent_scalars(self, previous: Any) -> dict[str, float]:
        """Return the recurrent scalars after a step in which the parameter had no gradient.

        Args:
            previous: The recurrent scalars before it, by name.

        Returns:
            Those that change, for rules with the trait ``counts_missed_steps``.
        """
        return {}

    def model_settings(self) -> dict[str, Any]:
        """Return the values, by name, of the settings that must be equal in all parameter groups."""
        return {name: getattr(self, name) for name in self.declared_traits.shared_settings}

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        """Return the scalars that depend on the highest learning rate, for rules with the trait ``uses_model_lr``.

        Args:
            step: The number of the step of the parameter, counted from 1.
            model_lr: The highest learning rate of all parameter groups in this step.
        """
        return {}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> StepResult:
        """Return the step before learning rate and decay, and the new state. May yield requests.

        Args:
            param: The parameter.
            grad: Its gradient, of the same shape.
            state: The state, by the field names of :meth:`layout`.
            c: The coefficients of the step.
        """
        raise NotImplementedError

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> StepResult:
        """Return the new parameter, θ - η d by default, and the new state. May yield requests."""
        return param - c.lr * direction, state

    def update(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        """Run one step of one tensor: yield its requests and return the new parameter and the new state."""
        direction, state = yield from resolve_reductions(self.direction(param, grad, state, c))
        return (yield from resolve_reductions(self.apply(param, direction, state, c)))

    def perturb(self, param: Tensor, grad: Tensor, c: Any) -> Tensor | RequestGenerator:
        """Return the parameter at which the second gradient is evaluated, for rules that need one.

        May yield requests.
        """
        raise NotImplementedError

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Record:
        """Return the new state after an estimate of the Hessian's diagonal, for rules that need one."""
        raise NotImplementedError

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        """Return the parameter at which the model is evaluated; ``c`` are the coefficients of the last step."""
        return param
