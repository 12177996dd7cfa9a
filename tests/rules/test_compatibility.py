"""Every wrapper does around every rule that it accepts what it declares; it rejects the others, with a remedy."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cases.references.wrapping import set_gradients
from cases.rules import parameters, relative_error
from cases.wrappers import ADAM, final_parameters, flatten, gradients_at, make_optimizer, train
from thalweg import optim, rules
from thalweg.errors import SettingError
from thalweg.rules import wrappers
from thalweg.rules.explanation.explain import semantics

WRAPPERS = [getattr(wrappers, name) for name in wrappers.__all__]
KINDS = [getattr(rules, name) for name in optim.__all__ if hasattr(rules, name)]
RULES = [kind for kind in KINDS if kind.declared_traits.needs == "gradient"]
NOOP_ON_ZERO = [kind for kind in RULES if kind is not rules.Scion]  # Scion shrinks parameters at any gradient


def accepted(make: Callable[[], rules.Rule]) -> rules.Rule | None:
    """Return the nest; None if it is rejected."""
    try:
        return make()
    except SettingError:
        return None


def without_decay(kind: type[rules.Rule]) -> rules.Rule:
    """Return a rule that does nothing if gradients are zero."""
    rule = kind()
    return rule.with_(**{name: 0.0 for name in ("weight_decay", "lambd") if name in rule.hypers()})


def initial_parameters(rule: rules.Rule) -> list[Tensor]:
    return [param for param in parameters(torch.float64) if param.dim() >= rule.traits.min_dims]


def eval_parameters(rule: rules.Rule, gradients: Callable[[int, list[Tensor]], list[Tensor]], num_steps: int) -> Tensor:
    """Return the eval parameters after some steps."""
    params = initial_parameters(rule)
    optimizer = make_optimizer(rule, params)
    for step in range(1, num_steps + 1):
        set_gradients(params, gradients(step, params))
        optimizer.step()
    with optimizer.evaluating():
        return flatten(params).clone()


@pytest.mark.parametrize("wrapper", [rules.DecoupledDecay, rules.CautiousDecay, rules.FullyDecoupledDecay])
def test_a_decay_takes_its_share_off_at_the_eval_parameters(wrapper: type[rules.Wrapper]) -> None:
    def share_of(kind: type[rules.Rule]) -> rules.Rule:
        inner = without_decay(kind)
        lr = inner.settings()["lr"]
        if wrapper is rules.FullyDecoupledDecay:
            return wrapper(inner, weight_decay=0.02, reference_lr=lr)
        return wrapper(inner, weight_decay=0.02 / lr)

    tried = 0
    for kind in NOOP_ON_ZERO:
        if (rule := accepted(lambda kind=kind: share_of(kind))) is not None:
            left = eval_parameters(rule, lambda step, params: [torch.zeros_like(param) for param in params], 12)
            assert relative_error(left, 0.98**12 * flatten(initial_parameters(rule))) < 1e-9, rule.name
            tried += 1
    assert tried > 35


def test_bounds_hold_at_the_eval_parameters() -> None:
    bound = 1.01 * float(flatten(parameters(torch.float64)).abs().max())
    fast = rules.SGD(lr=1.0, momentum=0.9)
    assert eval_parameters(fast, gradients_at, 12).abs().max() > 2 * bound
    nests = [
        *(lambda kind=kind: rules.ClipWeights(kind(), largest=bound) for kind in RULES),
        *(lambda outer=outer: outer(rules.ClipWeights(fast, largest=bound)) for outer in WRAPPERS),
        *(lambda inner=inner: rules.ClipWeights(inner(fast), largest=bound) for inner in WRAPPERS),
    ]
    accepted_nests = [
        rule for make in nests if (rule := accepted(make)) is not None and rule.traits.needs == "gradient"
    ]
    assert len(accepted_nests) > 70
    for rule in accepted_nests:
        assert eval_parameters(rule, gradients_at, 6).abs().max() <= bound, rule.name


def test_norms_are_preserved_by_every_wrapper_that_may_be_around_or_inside() -> None:
    def norms(whole: Tensor) -> Tensor:
        first = parameters(torch.float64)[0]
        return whole[: first.numel()].reshape(first.shape).flatten(1).norm(dim=1)

    before = norms(flatten(parameters(torch.float64)))
    nests = [(rules.FixedNorms, kind) for kind in WRAPPERS] + [(kind, rules.FixedNorms) for kind in WRAPPERS]
    accepted_nests = [
        rule for outer, inner in nests if (rule := accepted(lambda a=outer, b=inner: a(b(ADAM)))) is not None
    ]
    assert len(accepted_nests) > 25
    for rule in accepted_nests:
        params = initial_parameters(rule)
        train(make_optimizer(rule, params), params, range(1, 13))
        assert relative_error(norms(flatten(params)), before) < 1e-12, rule.name


def test_a_cautious_rule_never_steps_against_the_gradient() -> None:
    tried = 0
    for kind in NOOP_ON_ZERO:
        rule = accepted(lambda kind=kind: rules.Cautious(without_decay(kind)))
        if rule is None:
            continue
        params = initial_parameters(rule)
        optimizer = make_optimizer(rule, params)
        for step in range(1, 13):
            before, grads = [param.clone() for param in params], gradients_at(step, params)
            set_gradients(params, grads)
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
            rule = accepted(lambda kind=kind, decay=decay: rules.Cautious(kind(weight_decay=decay)))
            if rule is None:
                break
            param = torch.ones(4, 4, dtype=torch.float64)
            optimizer = make_optimizer(rule, [param])
            for grad in (1.0, 1.0, -0.01):  # against what is remembered by then
                before = param.clone()
                set_gradients([param], [torch.full_like(param, grad)])
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
        assert relative_error(final_parameters(ball), final_parameters(momentum)) < 1e-12


def test_curvature_reaches_the_parts_of_a_parameter_that_is_split() -> None:
    def after(rule: rules.Rule) -> Tensor:
        params = [torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(8, 4)]
        optimizer = make_optimizer(rule, params)
        for step in range(1, 6):
            set_gradients(params, gradients_at(step, params))
            optimizer.absorb_gauss_newton(3)
            optimizer.step()
        return params[0]

    for inner in (rules.Sophia(lr=0.1), rules.AdaHessian(lr=0.1)):
        assert torch.equal(after(rules.Split(inner, row_blocks=2)), after(inner))


SGD = rules.SGD(lr=0.1)
REJECTED = [
    (lambda: rules.ClipWeights(rules.ScheduleFreeSGD()), r"^ClipWeights: .* move the parameters, got ScheduleFreeSGD"),
    (lambda: rules.DecoupledDecay(rules.Clip(rules.MADGRAD())), r"got Clip\(MADGRAD\), .* use its own weight_decay"),
    (lambda: rules.Lookahead(rules.DAdaptSGD()), "must let wrappers move the parameters"),
    (
        lambda: rules.Lookahead(rules.Routed((rules.MADGRAD(), rules.AdamW()))),
        r"got MADGRAD\+AdamW, which continues from",
    ),
    (lambda: rules.Cautious(rules.ScheduleFreeAdamW()), "must step along its direction"),
    (lambda: rules.DecoupledDecay(rules.Prodigy()), "Use its own weight_decay or none"),
    (lambda: rules.CautiousDecay(rules.DoG()), "Use its own weight_decay or none"),
    (lambda: rules.FullyDecoupledDecay(rules.Mechanic(ADAM)), "With Mechanic, put the decay inside"),
    (lambda: rules.GaLore(rules.Sophia()), "must not need curvature, got Sophia"),
    (lambda: rules.GaLore(rules.Clip(rules.AdaHessian())), "must be elementwise"),
    (lambda: rules.MovingAverage(rules.ScheduleFreeSGD()), "already evaluates the model at other parameters"),
    (lambda: rules.PolyakAverage(rules.Lookahead(SGD)), "already evaluates the model at other parameters"),
    (lambda: rules.ClipWeights(rules.ASGD()), r"as in moving_average\(clip_weights\(sgd\)\)"),
    (lambda: rules.FixedNorms(rules.Clip(rules.MovingAverage(SGD))), "Put the average outside"),
    (lambda: rules.Mechanic(rules.Clip(rules.ClipWeights(SGD))), "Put the bound outside"),
    (lambda: rules.DecoupledDecay(rules.FixedNorms(SGD)), "Put FixedNorms outside"),
    (lambda: rules.DecoupledDecay(rules.Adadelta()), "got Adadelta, whose lr is a factor near 1. Use its own"),
    (lambda: rules.DecoupledDecay(rules.Clip(rules.LARS(lr=1e-3))), r"got Clip\(LARS\), whose lr is a factor near 1"),
    (lambda: rules.CautiousDecay(rules.AdaHessian()), "got AdaHessian, whose lr is a factor near 1"),
    (lambda: rules.FullyDecoupledDecay(rules.Adadelta()), "lr=1.0 and reference_lr=0.001. Pass reference_lr=1.0."),
    (
        lambda: rules.WarmRestarts(SGD, lr_min=0.2),
        r"lr_min must be at most lr, got lr_min=0.2 and lr=0.1. Lower lr_min",
    ),
    (lambda: rules.Rprop(smallest=1.0, largest=0.5), "smallest must be at most largest, got 1.0 and 0.5"),
]


@pytest.mark.parametrize(("nest", "message"), REJECTED, ids=itertools.count())
def test_a_nest_that_would_be_wrong_is_rejected_when_it_is_made(nest: Callable[[], rules.Rule], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        nest()


@pytest.mark.parametrize("inner", [rules.Adadelta(lr=1.0), rules.LARS(lr=0.1, momentum=0.0)])
def test_a_decay_around_a_rule_whose_lr_is_a_factor_is_the_share_of_a_step(inner: rules.Rule) -> None:
    lr = inner.settings()["lr"]
    decayed = rules.FullyDecoupledDecay(inner, weight_decay=1e-4, reference_lr=lr)
    assert decayed.decay_factor(2) == 1 - 1e-4
    assert decayed.with_(lr=lr / 2).decay_factor(2) == 1 - 5e-5  # a schedule halves it
    # Scion's learning rate has no unit either, but is small.
    assert rules.DecoupledDecay(rules.Scion(constrained=False), weight_decay=0.1).decay_factor(2) == pytest.approx(
        1 - 3e-5
    )
