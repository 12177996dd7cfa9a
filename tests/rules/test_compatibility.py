"""What every wrapper says of itself holds around every rule that it takes; the others it refuses, with what to do."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cases.references.wrapping import put
from cases.rules import parameters, relative_error
from cases.wrappers import ADAM, ends, field, made, train, vector
from thalweg import optim, rules
from thalweg.errors import SettingError
from thalweg.rules import wrappers
from thalweg.rules.explanation.explain import semantics

WRAPPERS = [getattr(wrappers, name) for name in wrappers.__all__]
KINDS = [getattr(rules, name) for name in optim.__all__ if hasattr(rules, name)]
RULES = [kind for kind in KINDS if kind.declared_traits.needs == "gradient"]
UNMOVED = [kind for kind in RULES if kind is not rules.Scion]  # which shrinks parameters at any gradient


def taken(make: Callable[[], rules.Rule]) -> rules.Rule | None:
    """The nest, unless it is refused."""
    try:
        return make()
    except SettingError:
        return None


def undecayed(kind: type[rules.Rule]) -> rules.Rule:
    """A rule that does nothing of its own where gradients are zero."""
    rule = kind()
    return rule.with_(**{name: 0.0 for name in ("weight_decay", "lambd") if name in rule.hypers()})


def starting(rule: rules.Rule) -> list[Tensor]:
    return [param for param in parameters(torch.float64) if param.dim() >= rule.traits.min_dims]


def used(rule: rules.Rule, gradients: Callable[[int, list[Tensor]], list[Tensor]], num_steps: int) -> Tensor:
    """The parameters where the model is used, after some steps."""
    params = starting(rule)
    optimizer = made(rule, params)
    for step in range(1, num_steps + 1):
        put(params, gradients(step, params))
        optimizer.step()
    with optimizer.evaluating():
        return vector(params).clone()


@pytest.mark.parametrize("wrapper", [rules.DecoupledDecay, rules.CautiousDecay, rules.FullyDecoupledDecay])
def test_a_decay_takes_its_share_off_where_the_model_is_used(wrapper: type[rules.Wrapper]) -> None:
    def share_of(kind: type[rules.Rule]) -> rules.Rule:
        inner = undecayed(kind)
        lr = inner.settings()["lr"]
        if wrapper is rules.FullyDecoupledDecay:
            return wrapper(inner, weight_decay=0.02, reference_lr=lr)
        return wrapper(inner, weight_decay=0.02 / lr)

    tried = 0
    for kind in UNMOVED:
        if (rule := taken(lambda kind=kind: share_of(kind))) is not None:
            left = used(rule, lambda step, params: [torch.zeros_like(param) for param in params], 12)
            assert relative_error(left, 0.98**12 * vector(starting(rule))) < 1e-9, rule.name
            tried += 1
    assert tried > 35


def test_bounds_hold_where_the_model_is_used() -> None:
    bound = 1.01 * float(vector(parameters(torch.float64)).abs().max())
    fast = rules.SGD(lr=1.0, momentum=0.9)
    assert used(fast, field, 12).abs().max() > 2 * bound
    nests = [
        *(lambda kind=kind: rules.ClipWeights(kind(), largest=bound) for kind in RULES),
        *(lambda outer=outer: outer(rules.ClipWeights(fast, largest=bound)) for outer in WRAPPERS),
        *(lambda inner=inner: rules.ClipWeights(inner(fast), largest=bound) for inner in WRAPPERS),
    ]
    found = [rule for make in nests if (rule := taken(make)) is not None and rule.traits.needs == "gradient"]
    assert len(found) > 70
    for rule in found:
        assert used(rule, field, 6).abs().max() <= bound, rule.name


def test_norms_are_kept_by_all_that_may_be_around_or_inside() -> None:
    def norms(whole: Tensor) -> Tensor:
        first = parameters(torch.float64)[0]
        return whole[: first.numel()].reshape(first.shape).flatten(1).norm(dim=1)

    before = norms(vector(parameters(torch.float64)))
    nests = [(rules.FixedNorms, kind) for kind in WRAPPERS] + [(kind, rules.FixedNorms) for kind in WRAPPERS]
    found = [rule for outer, inner in nests if (rule := taken(lambda a=outer, b=inner: a(b(ADAM)))) is not None]
    assert len(found) > 25
    for rule in found:
        params = starting(rule)
        train(made(rule, params), params, range(1, 13))
        assert relative_error(norms(vector(params)), before) < 1e-12, rule.name


def test_a_cautious_rule_never_steps_against_the_gradient() -> None:
    tried = 0
    for kind in UNMOVED:
        rule = taken(lambda kind=kind: rules.Cautious(undecayed(kind)))
        if rule is None:
            continue
        params = starting(rule)
        optimizer = made(rule, params)
        for step in range(1, 13):
            before, grads = [param.clone() for param in params], field(step, params)
            put(params, grads)
            optimizer.step()
            for param, old, grad in zip(params, before, grads, strict=True):
                assert ((param - old) * grad <= 0).all(), rule.name
        tried += 1
    assert tried > 40


def test_cautious_masks_the_decay_that_explain_says_is_in_the_step() -> None:
    masked, beside = set(), set()
    for kind in RULES:
        place = semantics(kind())["weight decay"]
        if "decoupled" not in place and "in the step" not in place:
            continue
        moved = []
        for decay in (0.0, 0.5):
            rule = taken(lambda kind=kind, decay=decay: rules.Cautious(kind(weight_decay=decay)))
            if rule is None:
                break
            param = torch.ones(4, 4, dtype=torch.float64)
            optimizer = made(rule, [param])
            for grad in (1.0, 1.0, -0.01):  # against what is remembered by then
                before = param.clone()
                put([param], [torch.full_like(param, grad)])
                optimizer.step()
            moved.append(bool((param != before).any()))
        if moved and not moved[0]:  # the step is masked
            (beside if moved[1] else masked).add(kind)
            assert moved[1] != ("in the step" in place), kind
    assert masked == {rules.StableAdamW, rules.Prodigy, rules.DAdaptAdam, rules.LAMB}
    assert {rules.AdamW, rules.Lion, rules.Muon} <= beside


def test_the_heavy_ball_composes_as_momentum_does() -> None:
    for wrapper in (rules.Lookahead, rules.Cautious, rules.DecoupledDecay):
        settings = {"weight_decay": 0.3} if wrapper is rules.DecoupledDecay else {}
        ball, momentum = (wrapper(kind(lr=0.05, momentum=0.8), **settings) for kind in (rules.HeavyBall, rules.SGD))
        assert relative_error(ends(ball), ends(momentum)) < 1e-12


def test_curvature_reaches_the_parts_of_a_parameter_that_is_split() -> None:
    def after(rule: rules.Rule) -> Tensor:
        params = [torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(8, 4)]
        optimizer = made(rule, params)
        for step in range(1, 6):
            put(params, field(step, params))
            optimizer.absorb_gauss_newton(3)
            optimizer.step()
        return params[0]

    for inner in (rules.Sophia(lr=0.1), rules.AdaHessian(lr=0.1)):
        assert torch.equal(after(rules.Split(inner, row_blocks=2)), after(inner))


SGD = rules.SGD(lr=0.1)
REFUSED = [
    (lambda: rules.ClipWeights(rules.ScheduleFreeSGD()), r"^ClipWeights: .* move the parameters, got ScheduleFreeSGD"),
    (lambda: rules.DecoupledDecay(rules.Clip(rules.MADGRAD())), r"got Clip\(MADGRAD\), .* use its own weight_decay"),
    (lambda: rules.Lookahead(rules.DAdaptSGD()), "must let others move the parameters"),
    (
        lambda: rules.Lookahead(rules.Routed((rules.MADGRAD(), rules.AdamW()))),
        r"got MADGRAD\+AdamW, which goes on from",
    ),
    (lambda: rules.Cautious(rules.ScheduleFreeAdamW()), "must step along its direction"),
    (lambda: rules.DecoupledDecay(rules.Prodigy()), "Use its own weight_decay or none"),
    (lambda: rules.CautiousDecay(rules.DoG()), "Use its own weight_decay or none"),
    (lambda: rules.FullyDecoupledDecay(rules.Mechanic(ADAM)), "of Mechanic, put the decay inside"),
    (lambda: rules.GaLore(rules.Sophia()), "must not need curvature, got Sophia"),
    (lambda: rules.GaLore(rules.Clip(rules.AdaHessian())), "must be elementwise"),
    (lambda: rules.MovingAverage(rules.ScheduleFreeSGD()), "already says where the model is used"),
    (lambda: rules.PolyakAverage(rules.Lookahead(SGD)), "already says where the model is used"),
    (lambda: rules.ClipWeights(rules.ASGD()), r"as in moving_average\(clip_weights\(sgd\)\)"),
    (lambda: rules.FixedNorms(rules.Clip(rules.MovingAverage(SGD))), "Put the average outside"),
    (lambda: rules.Mechanic(rules.Clip(rules.ClipWeights(SGD))), "Put the bound outside"),
    (lambda: rules.DecoupledDecay(rules.FixedNorms(SGD)), "Put FixedNorms outside"),
    (
        lambda: rules.WarmRestarts(SGD, lr_min=0.2),
        r"lr_min must be at most lr, got lr_min=0.2 and lr=0.1. Lower lr_min",
    ),
    (lambda: rules.Rprop(smallest=1.0, largest=0.5), "smallest must be at most largest, got 1.0 and 0.5"),
]


@pytest.mark.parametrize(("nest", "said"), REFUSED, ids=itertools.count())
def test_what_would_be_wrong_is_refused_when_it_is_put_together(nest: Callable[[], rules.Rule], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        nest()
