"""Traits: every merge, and that wrappers and composites forward all traits, also future ones."""

import copy
import pickle
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from thalweg import rules
from thalweg.errors import KeywordError, SettingError
from thalweg.rules.composition.compatibility import IMPLIED_TRAITS
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.core import traits as traits_module
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.traits import Traits

NAMES = [declared.name for declared in fields(Traits)]

# Name: ((inner, wrapper, trait of the nest), ...)
WRAPPED = {
    "scope": (
        ("elementwise", "tensor", "tensor"),
        ("model", "matrix", "model"),
        ("tensor", "matrix", "matrix"),
        ("matrix", "elementwise", "matrix"),
    ),
    "needs": (
        ("gradient", "second gradient", "second gradient"),
        ("curvature", "gradient", "curvature"),
        ("curvature", "second gradient", "second gradient"),
        ("gradient", "gradient", "gradient"),
    ),
    "min_dims": ((2, 0, 2), (0, 1, 1)),
    "max_dims": ((None, None, None), (6, None, 6), (None, 3, 3), (6, 3, 3), (3, 6, 3)),
    "curvature_interval": ((10, 1, 10), (1, 5, 5)),
    "shared_settings": ((("a", "b"), ("b", "c"), ("a", "b", "c")), ((), ("a",), ("a",)), (("a",), (), ("a",))),
    "recurrent_scalars": (({"a": 1.0}, {"b": 2.0}, {"a": 1.0, "b": 2.0}), ({"a": 1.0}, {}, {"a": 1.0})),
    **dict.fromkeys(
        ("supports_sparse", "lazy_sparse", "supports_complex", "supports_vmap", "supports_shards", "noop_on_zero_grad"),
        ((True, True, True), (True, False, False), (False, True, False)),
    ),
    **dict.fromkeys(
        (
            "needs_whole_matrices",
            "requests_operations",
            "corrects_bias",
            "lr_in_state",
            "estimates_lr",
            "owns_parameters",
            "bounded",
            "preserves_norms",
            "replaces_lr_schedule",
            "has_eval_params",
            "uses_random_numbers",
            "varies_by_step",
            "counts_missed_steps",
            "has_shared_state",
            "uses_model_lr",
        ),
        ((True, False, True), (False, True, True), (False, False, False)),
    ),
}
# The traits that a composite merges over all members, as (current, second, trait of the composite). All others are
# those of the current member.
ALL_MEMBERS = {
    "supports_vmap": ((True, False, False), (False, True, False), (True, True, True)),
    **dict.fromkeys(
        (
            "estimates_lr",
            "owns_parameters",
            "bounded",
            "preserves_norms",
            "has_eval_params",
            "counts_missed_steps",
            "has_shared_state",
            "uses_model_lr",
        ),
        ((True, False, True), (False, True, True), (False, False, False)),
    ),
}
# A wrapper must declare these itself; with all other traits, its default does not change that of the inner rule.
OPT_IN = {"supports_sparse", "lazy_sparse", "noop_on_zero_grad"}


def test_the_tables_of_this_test_name_every_trait() -> None:
    assert set(WRAPPED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapper_merges_a_trait_with_that_of_the_inner_rule(name: str) -> None:
    for inner, wrapper, expected in WRAPPED[name]:
        nest = Traits(**{name: inner}).wrap(Traits(**{name: wrapper}))
        assert getattr(nest, name) == expected
        plain = Traits().wrap(Traits())
        assert nest == replace(plain, **{name: expected})  # and changes no other trait


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapper_that_declares_nothing_leaves_a_trait_as_it_is_unless_it_must_opt_in(name: str) -> None:
    for inner, _, _ in WRAPPED[name]:
        left = getattr(Traits(**{name: inner}).wrap(Traits()), name)
        assert left == (False if name in OPT_IN else inner)


@pytest.mark.parametrize("name", NAMES)
def test_a_composite_has_the_trait_of_its_current_member_or_the_merge_of_all(name: str) -> None:
    for current, second, expected in ALL_MEMBERS.get(name, [(a, b, a) for a, b, _ in WRAPPED[name]]):
        first, other = Traits(**{name: current}), Traits(**{name: second})
        for members in ([first, other], [other, first]):
            assert getattr(first.combine(members), name) == expected


def test_a_new_trait_is_one_field() -> None:
    @dataclass(frozen=True)
    class MoreTraits(Traits):
        anyone: bool = traits_module.trait(False, any, of_all_members=True)
        lowest: int = traits_module.trait(9, min)

    inner, wrapper = MoreTraits(anyone=True, lowest=3), MoreTraits(lowest=5)
    assert (inner.wrap(wrapper).anyone, inner.wrap(wrapper).lowest) == (True, 3)
    assert (wrapper.combine([inner, wrapper]).anyone, wrapper.combine([inner, wrapper]).lowest) == (True, 5)
    assert type(inner.wrap(wrapper)) is MoreTraits


def test_a_trait_without_a_merge_is_noticed() -> None:
    @dataclass(frozen=True)
    class Unmerged(Traits):
        forgotten: bool = field(default=False)

    with pytest.raises(KeyError, match="merge"):
        Unmerged().wrap(Unmerged())


def test_no_class_of_rules_forwards_a_trait_by_hand() -> None:
    for base in (Rule, rules.Wrapper, CompositeRule, rules.Routed, rules.Switched, rules.Split):
        assert not set(NAMES) & set(dir(base)), base
    assert set(IMPLIED_TRAITS.values()) <= set(NAMES)


def test_traits_are_a_value() -> None:
    traits, same = rules.ScheduleFreeSGD().traits, rules.ScheduleFreeSGD(lr=0.5).traits
    assert traits == same
    assert hash(traits) == hash(same)
    assert traits != rules.SGD().traits
    assert pickle.loads(pickle.dumps(traits)) == copy.deepcopy(traits) == traits
    with pytest.raises(AttributeError):
        traits.scope = "model"  # type: ignore[misc]


# --- rules ------------------------------------------------------------------------------------------------------------


class Silent(Rule, scope="matrix", min_dims=2, corrects_bias=True):
    """A rule of traits alone."""


class Louder(Silent, min_dims=1, uses_random_numbers=True):
    """One that inherits them."""


class Tensorwise(Silent, scope="tensor"):
    """One with another scope."""


def test_class_keywords_are_inherited_and_overridden() -> None:
    assert Rule.declared_traits == Traits()
    assert Silent().traits == Traits(scope="matrix", needs_whole_matrices=True, min_dims=2, corrects_bias=True)
    assert Louder.declared_traits == replace(Silent.declared_traits, min_dims=1, uses_random_numbers=True)
    assert Tensorwise.declared_traits == replace(Silent.declared_traits, scope="tensor", needs_whole_matrices=False)


def test_a_list_of_settings_is_a_tuple_so_that_traits_can_be_compared_by_hash() -> None:
    listed = type("Listed", (Rule,), {}, shared_settings=["lr"])
    assert listed.declared_traits.shared_settings == ("lr",)
    assert listed.declared_traits.wrap(Traits(min_dims=1)).shared_settings == ("lr",)


def test_an_unknown_trait_names_the_nearest() -> None:
    with pytest.raises(KeywordError, match=r"^Wrong: .* got 'suports_sparse'. Did you mean supports_sparse or "):
        type("Wrong", (Rule,), {}, suports_sparse=True)
    with pytest.raises(
        SettingError, match="^Wrong: scope must be one of elementwise, tensor, matrix, model, got 'row'"
    ):
        type("Wrong", (Rule,), {}, scope="row")


@dataclass(frozen=True, kw_only=True)
class Forwarding(rules.Wrapper, supports_sparse=True, noop_on_zero_grad=True):
    """A wrapper that says of itself what a wrapper must say."""


@dataclass(frozen=True, kw_only=True)
class Declining(rules.Wrapper):
    """A wrapper that says nothing of itself."""


@dataclass(frozen=True, kw_only=True)
class Widening(rules.Wrapper, scope="model", supports_vmap=False, curvature_interval=3):
    """A wrapper with traits of its own."""


BASES = [
    rules.AdaGrad(),
    rules.SGD(),
    rules.SGD(momentum=0.9),
    rules.AdamW(),
    rules.Muon(),
    rules.Shampoo(),
    rules.Prodigy(),
    rules.ScheduleFreeAdamW(),
    rules.Sophia(),
    rules.ClipWeights(rules.SGD()),
]


def accepts(wrapper: type[rules.Wrapper], inner: Rule) -> bool:
    try:
        wrapper(inner)
    except SettingError:
        return False
    return True


WRAPPERS = [Forwarding, Declining, Widening, rules.Clip, rules.Mechanic, rules.Noisy]
NESTS = [(wrapper, inner) for wrapper in WRAPPERS for inner in BASES if accepts(wrapper, inner)]


@pytest.mark.parametrize(("wrapper", "inner"), NESTS, ids=str)
def test_the_traits_of_a_nest_are_the_merge_of_both(wrapper: type[rules.Wrapper], inner: Rule) -> None:
    nest = wrapper(inner)
    for changed in (nest, nest.with_(lr=0.5), nest.for_step(3)):
        assert changed.traits == inner.traits.wrap(wrapper.declared_traits)
    assert Forwarding(inner).traits == inner.traits
    assert Forwarding(nest).traits == nest.traits


def test_most_nests_are_accepted() -> None:
    assert len(NESTS) > 50
    assert {wrapper for wrapper, _ in NESTS} == set(WRAPPERS)


def test_a_wrapper_forwards_sparse_gradients_only_if_it_says_so() -> None:
    assert Forwarding(rules.AdaGrad()).traits.supports_sparse
    assert not Declining(rules.AdaGrad()).traits.supports_sparse
    assert not Forwarding(Declining(rules.AdaGrad())).traits.supports_sparse
    assert not Forwarding(rules.AdamW()).traits.supports_sparse


def test_traits_follow_the_settings_through_wrappers() -> None:
    nest = Forwarding(rules.SGD())
    assert nest.traits.noop_on_zero_grad
    assert not nest.with_(momentum=0.9).traits.noop_on_zero_grad
    assert nest.with_(momentum=0.9).with_(momentum=0.0).traits.noop_on_zero_grad


@pytest.mark.parametrize("second", [rule for rule in BASES if rule.traits.needs == "gradient"][3:], ids=str)
@pytest.mark.parametrize("first", [rules.AdaGrad(), Forwarding(rules.RMSprop())], ids=lambda rule: rule.name)
def test_a_routed_rule_has_the_traits_of_the_rule_that_a_group_follows(first: Rule, second: Rule) -> None:
    routed = rules.Routed((first, second))
    members = [rule.traits for rule in routed.rules]
    for name, rule in zip(routed.member_names, routed.rules, strict=True):
        followed = routed.with_(rule=name)
        assert followed.traits == rule.traits.combine(members)
        for trait in set(NAMES) - set(ALL_MEMBERS):
            assert getattr(followed.traits, trait) == getattr(rule.traits, trait), trait
    followed = routed.with_(rule=routed.member_names[0])
    assert followed.traits.supports_sparse == first.traits.supports_sparse
    assert followed.traits.estimates_lr == second.traits.estimates_lr


def test_a_switched_rule_has_the_traits_of_the_rule_that_takes_the_step() -> None:
    switched = rules.Switched((rules.AdaGrad(), rules.Muon()), switch_at=5)
    before, after = switched.for_step(5).traits, switched.for_step(6).traits
    assert (before.supports_sparse, after.supports_sparse) == (True, False)
    assert (before.noop_on_zero_grad, after.noop_on_zero_grad) == (True, False)
    assert before.varies_by_step
    assert not before.supports_vmap
    assert before.min_dims == after.min_dims == 2


def test_a_split_stack_has_one_more_dimension_than_its_matrices() -> None:
    limited = rules.Shampoo()
    assert limited.traits.max_dims == 6
    assert rules.Split(limited).traits.max_dims == 6
    assert rules.Split(limited, stacked=True).traits.max_dims == 7
    assert rules.Split(rules.Muon(), stacked=True).traits.max_dims is None
    assert rules.Split(rules.Muon()).traits.needs_whole_matrices


def values(trait: str) -> set[Any]:
    every = [getattr(rules, name) for name in rules.__all__]
    declared = [kind.declared_traits for kind in every if isinstance(kind, type) and issubclass(kind, Rule)]
    return {str(getattr(traits, trait)) for traits in declared}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"varies_by_step", "noop_on_zero_grad"}])
def test_every_trait_makes_a_difference_to_some_rule(name: str) -> None:
    """The two that are left out depend on settings."""
    assert len(values(name)) > 1
