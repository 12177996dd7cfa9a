"""Traits: what holds of a rule, whatever the gradients are, and how it carries over to wrappers and composites.

Each trait is one field below. Its merge says what becomes of it in a wrapper, whose traits are those of the inner rule
and its own. A composite follows one of its members at a time: a trait holds of it as of the rule that is followed, or,
if `of_all_members`, as the merge of all of them says. So a new trait is one field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

Scope = Literal["elementwise", "tensor", "matrix", "model"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # from narrow to wide
# What a step needs: a gradient at θ; a second one at perturbed parameters; estimates of the Hessian's diagonal; or a
# closure, which is called at as many points as the step takes.
Needs = Literal["gradient", "second gradient", "curvature", "closure"]

_Merge = Callable[[Sequence[Any]], Any]


def _trait(default: Any, merge: _Merge, *, of_all_members: bool = False) -> Any:
    return field(default_factory=lambda: default, metadata={"merge": merge, "of_all_members": of_all_members})


def _widest(scopes: Sequence[Scope]) -> Scope:
    return max(scopes, key=SCOPES.index)


def _last_but_gradient(needs: Sequence[Needs]) -> Needs:
    """Return the outermost need beyond a gradient."""
    return next((need for need in reversed(needs) if need != "gradient"), "gradient")


def _smallest_limit(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _union(mappings: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


@dataclass(frozen=True)
class Traits:
    """What holds of a rule at its settings.

    Attributes:
        scope: The part of the model that a step of one element looks at.
        needs: What a step needs beside the gradient.
        needs_whole_matrices: A parameter must be whole matrices; the scope of a nest may be wider and hide it.
        supports_sparse: Sparse gradients make sense, as they do in ``torch.optim``.
        supports_complex: Complex parameters are pairs of real numbers. False where dimensions have a meaning.
        supports_vmap: A step does the same operations whatever its numbers are, so a population can step as one.
        min_dims: Dimensions that a parameter must have at least.
        max_dims: Dimensions that a parameter may have at most; None for any number.
        corrects_bias: Averages that start at zero are corrected for it.
        lr_in_state: The learning rate acts on the state, not on the size of a step.
        estimates_lr: The rule estimates its step size; the learning rate is a factor of the estimate.
        owns_parameters: A step continues from parameters in the state and is not -lr times the direction. Nothing else
            may move the parameters, and nothing may mask the direction.
        bounded: Steps end within bounds.
        preserves_norms: Steps end at the norms they began with.
        replaces_lr_schedule: The rule does what a falling learning rate would do.
        has_eval_params: The model is evaluated at other parameters than it is trained at: `Rule.evaluation_point`.
        noop_on_zero_grad: A zero gradient leaves parameter and state as they are.
        uses_random_numbers: Coefficients `key_low` and `key_high`, which the engine adds, seed random numbers.
        varies_by_step: Another rule takes over at some step: `Rule.for_step`.
        curvature_interval: Steps from one estimate of the curvature to the next, where `needs` is "curvature".
        recurrent_scalars: Scalars that follow from the step before, with their first values.
    """

    scope: Scope = _trait("elementwise", _widest)
    needs: Needs = _trait("gradient", _last_but_gradient)
    needs_whole_matrices: bool = _trait(False, any)
    supports_sparse: bool = _trait(False, all)
    supports_complex: bool = _trait(True, all)
    supports_vmap: bool = _trait(True, all, of_all_members=True)
    min_dims: int = _trait(0, max)
    max_dims: int | None = _trait(None, _smallest_limit)
    corrects_bias: bool = _trait(False, any)
    lr_in_state: bool = _trait(False, any)
    estimates_lr: bool = _trait(False, any, of_all_members=True)
    owns_parameters: bool = _trait(False, any, of_all_members=True)
    bounded: bool = _trait(False, any, of_all_members=True)
    preserves_norms: bool = _trait(False, any, of_all_members=True)
    replaces_lr_schedule: bool = _trait(False, any)
    has_eval_params: bool = _trait(False, any, of_all_members=True)
    noop_on_zero_grad: bool = _trait(False, all)
    uses_random_numbers: bool = _trait(False, any)
    varies_by_step: bool = _trait(False, any)
    curvature_interval: int = _trait(1, max)
    recurrent_scalars: Mapping[str, float] = _trait({}, _union)

    def wrap(self, own: Self) -> Self:
        """Return the traits of a wrapper with traits `own` around a rule with these traits."""
        return type(self)(**{name: merge([getattr(self, name), getattr(own, name)]) for name, merge, _ in _MERGES})

    def combine(self, members: Sequence[Self]) -> Self:
        """Return the traits of a composite with these members, of which the one with these traits is followed."""
        return type(self)(
            **{
                name: merge([getattr(member, name) for member in members]) if of_all else getattr(self, name)
                for name, merge, of_all in _MERGES
            }
        )


_MERGES: list[tuple[str, _Merge, bool]] = [
    (trait.name, trait.metadata["merge"], trait.metadata["of_all_members"]) for trait in fields(Traits)
]
