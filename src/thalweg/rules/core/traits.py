"""Traits: properties of a rule that hold at every step, and their merge in wrappers and composites.

A trait is one field of `Traits`. Its merge gives the trait of a wrapper from those of the inner rule and the wrapper
itself. A composite follows one of its members at a time: its trait is that of the current member, or the merge of all
members if the field says `of_all_members`. So a new trait is one field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal, Self, get_args

from thalweg.errors import KeywordError, SettingError, nearest

Scope = Literal["elementwise", "tensor", "matrix", "model"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # from narrow to wide

# The requirement of a step: a gradient at θ; a second one at perturbed parameters; estimates of the Hessian's diagonal;
# or a closure, which is called at several points.
Needs = Literal["gradient", "second gradient", "curvature", "closure"]

Merge = Callable[[Sequence[Any]], Any]


def trait(default: Any, merge: Merge, *, of_all_members: bool = False) -> Any:
    """Declare a trait: a field of `Traits`.

    `merge` receives the values of several rules, the innermost first. `of_all_members` says that a composite merges the
    values of all members, instead of taking that of the current one.
    """
    return field(
        default_factory=lambda: default,
        metadata={"merge": merge, "of_all_members": of_all_members},
        hash=not isinstance(default, dict),
    )


def _widest(scopes: Sequence[Scope]) -> Scope:
    return max(scopes, key=SCOPES.index)


def _outermost_need(needs: Sequence[Needs]) -> Needs:
    return next((need for need in reversed(needs) if need != "gradient"), "gradient")


def _smallest_limit(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _joined(tuples: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in tuples for name in names))


def _union(mappings: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


@dataclass(frozen=True)
class Traits:
    """The properties of a rule at its settings.

    Attributes:
        scope: The part of the model that the step of one element depends on.
        needs: The requirement of a step beside the gradient.
        needs_whole_matrices: Every parameter must be a whole matrix. ``scope`` does not say this, since a wrapper may
            widen it.
        requests_operations: The rule requests operations on matrices that the engine may answer in batches.
        supports_sparse: Sparse gradients are supported, as in ``torch.optim``.
        lazy_sparse: A step with a sparse gradient changes neither the elements that it does not hold nor their state.
        supports_complex: Complex parameters are treated as pairs of real numbers. False if dimensions have a meaning.
        supports_vmap: A step does the same operations for all values, so a population can take it as one.
        supports_shards: A step of a parameter that is split over processes is right. False if the rule divides a
            parameter by itself. Rules that need whole matrices do not support shards either.
        min_dims: The smallest number of dimensions of a parameter.
        max_dims: The largest number of dimensions of a parameter; None for no limit.
        corrects_bias: Running means that start at zero are corrected for it.
        lr_in_state: The learning rate acts on the state, not on the size of a step.
        estimates_lr: The rule estimates its step size; the learning rate is a factor of the estimate.
        owns_parameters: A step starts from parameters in the state and is not -lr times the direction. Nothing else may
            move the parameters or mask the direction.
        bounded: Steps end within bounds.
        preserves_norms: Steps end at the norms that they began with.
        replaces_lr_schedule: The rule has the effect of a falling learning rate.
        has_eval_params: The model is evaluated at other parameters than it is trained at: ``Rule.evaluation_point``.
        noop_on_zero_grad: A gradient of zero changes neither parameter nor state.
        uses_random_numbers: The engine adds the coefficients ``key_low`` and ``key_high``, which seed random numbers.
        varies_by_step: Another rule takes over at some step: ``Rule.for_step``.
        curvature_interval: Steps from one estimate of the curvature to the next, if ``needs`` is "curvature".
        recurrent_scalars: Scalars that depend on the previous step, with their initial values.
        counts_missed_steps: Steps without a gradient count, too, for parameters that have state:
            ``Rule.missed_recurrent_scalars``. One of the recurrent scalars is ``model_steps``, which counts the steps
            of the optimizer.
        has_shared_state: Some state tensors are of the whole model. Every parameter holds the same values, also one
            without a gradient or one that joins late.
        shared_settings: Settings that enter shared state. They must be equal in all parameter groups.
        uses_model_lr: The engine adds ``Rule.model_coefficients``, which depend on the highest learning rate of all
            groups.
    """

    scope: Scope = trait("elementwise", _widest)
    needs: Needs = trait("gradient", _outermost_need)
    needs_whole_matrices: bool = trait(False, any)
    requests_operations: bool = trait(False, any)
    supports_sparse: bool = trait(False, all)
    lazy_sparse: bool = trait(False, all)
    supports_complex: bool = trait(True, all)
    supports_vmap: bool = trait(True, all, of_all_members=True)
    supports_shards: bool = trait(True, all)
    min_dims: int = trait(0, max)
    max_dims: int | None = trait(None, _smallest_limit)
    corrects_bias: bool = trait(False, any)
    lr_in_state: bool = trait(False, any)
    estimates_lr: bool = trait(False, any, of_all_members=True)
    owns_parameters: bool = trait(False, any, of_all_members=True)
    bounded: bool = trait(False, any, of_all_members=True)
    preserves_norms: bool = trait(False, any, of_all_members=True)
    replaces_lr_schedule: bool = trait(False, any)
    has_eval_params: bool = trait(False, any, of_all_members=True)
    noop_on_zero_grad: bool = trait(False, all)
    uses_random_numbers: bool = trait(False, any)
    varies_by_step: bool = trait(False, any)
    curvature_interval: int = trait(1, max)
    recurrent_scalars: Mapping[str, float] = trait({}, _union)
    counts_missed_steps: bool = trait(False, any, of_all_members=True)
    has_shared_state: bool = trait(False, any, of_all_members=True)
    shared_settings: tuple[str, ...] = trait((), _joined)
    uses_model_lr: bool = trait(False, any, of_all_members=True)

    @classmethod
    def declare(cls, rule_name: str, **traits: Any) -> Self:
        """Return the traits with these values; raise an error with this name if a trait is unknown or invalid."""
        names = {declared.name for declared in fields(cls)}
        for name in traits:
            if name not in names:
                raise KeywordError(
                    f"{rule_name}: the class keywords are the traits of a rule, got {name!r}. {nearest(name, names)}"
                )
        if "scope" in traits and traits["scope"] not in SCOPES:
            raise SettingError(f"{rule_name}: scope must be one of {', '.join(SCOPES)}, got {traits['scope']!r}.")
        if "shared_settings" in traits:
            traits["shared_settings"] = tuple(traits["shared_settings"])  # a list has no hash
        return cls(**traits)

    def wrap(self, wrapper: Self) -> Self:
        """Return the traits of a wrapper around a rule with these traits.

        Args:
            wrapper: The traits that the wrapper declares.

        Returns:
            The traits of both together.
        """
        return _wrapped(self, wrapper)

    def combine(self, members: Sequence[Self]) -> Self:
        """Return the traits of a composite whose current member has these traits.

        Args:
            members: The traits of all members, the current one included.

        Returns:
            The traits of the composite.
        """
        return _combined(self, tuple(members))

    def with_(self, **changes: Any) -> Self:
        """Return these traits with some of them changed."""
        return _changed(self, tuple(changes.items()))


# Cached, since a schedule makes a new rule at every step, whose traits are mostly those of the rule before.


@lru_cache(maxsize=1024)
def _wrapped(inner: Any, wrapper: Any) -> Any:
    return type(inner)(**{declared.name: _merged(declared, (inner, wrapper)) for declared in fields(inner)})


@lru_cache(maxsize=1024)
def _combined(current: Any, members: tuple[Any, ...]) -> Any:
    return type(current)(
        **{
            declared.name: _merged(declared, members if declared.metadata["of_all_members"] else (current,))
            for declared in fields(current)
        }
    )


@lru_cache(maxsize=1024)
def _changed(traits: Any, changes: tuple[tuple[str, Any], ...]) -> Any:
    return replace(traits, **dict(changes))


def _merged(declared: Field[Any], rules: Sequence[Traits]) -> Any:
    return declared.metadata["merge"]([getattr(traits, declared.name) for traits in rules])
