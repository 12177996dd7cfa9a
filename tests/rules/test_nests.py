"""Nests of wrappers: which are allowed, and the properties that each of them has."""

import copy
import inspect
import io
import itertools
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ExponentialLR

from cases.references.wrapping import set_gradients
from cases.rules import parameters, relative_error
from cases.wrappers import (
    ADAM,
    NUM_STEPS,
    SGD,
    final_parameters,
    flatten,
    gradients_at,
    make_optimizer,
    train,
)
from tests.rules.kinds import DECAYS, RULES, TOLERANCE, WRAPPERS
from thalweg import optim, rules
from thalweg.engine import population
from thalweg.engine.core.program import Program
from thalweg.errors import KeywordError, SettingError
from thalweg.testing import check_optimizer

LR_FACTORS = {rules.Adadelta, rules.AdaHessian, rules.LARS}  # rules whose learning rate is near 1, beside ESTIMATES_LR


def why_not(outer: type[rules.Wrapper], inner: type[rules.Wrapper]) -> str | None:
    """Return a part of the message if one wrapper must not go around another."""
    if outer in (rules.GaLore, rules.Mechanic) and inner in AVERAGES | {rules.Mechanic}:
        return "must not store values in the unit of the parameters"
    if outer is rules.GaLore and inner.declared_traits.scope != "elementwise":
        return "must be elementwise"
    if outer in AVERAGES and inner in AVERAGES:
        return "already evaluates the model at other parameters"
    if outer in BOUNDS and inner in AVERAGES:
        return "Put the average outside and the bound inside"
    if outer in DECAYS - {rules.CoupledDecay} and inner is rules.Mechanic:
        return "put the decay inside"
    if outer in MOVES_PARAMETERS and inner is rules.FixedNorms:
        return "Put FixedNorms outside"
    if outer in (rules.FixedNorms, rules.Mechanic) and inner in BOUNDS:
        return "Put the bound outside"
    if {outer, inner} == {rules.SAM, rules.ASAM}:
        return "must need gradients alone"
    return "twice" if {outer, inner} <= DECAYS else None


# --- nests ------------------------------------------------------------------------------------------------------------

NADAM = rules.NAdam(lr=0.01, weight_decay=0.05)


ELEMENTWISE = [
    rules.Lookahead(rules.Grokfast(rules.ClipValue(NADAM)), every=4),
    rules.MovingAverage(rules.ClipWeights(rules.CautiousDecay(ADAM, weight_decay=0.1), largest=4.0), average_decay=0.9),
    rules.PolyakAverage(rules.FullyDecoupledDecay(rules.WarmRestarts(SGD, period=6, stretch=1), weight_decay=0.01)),
]


WIDER = [
    rules.Cautious(rules.Clip(rules.Mars(rules.AdamW(lr=0.01)))),
    rules.MovingAverage(rules.FixedNorms(rules.ClipAdaptive(rules.DecoupledDecay(ADAM, weight_decay=0.1)))),
    rules.Centralized(rules.Clip(SGD, max_norm=20.0)),
    rules.Clip(rules.GaLore(ADAM, update_gap=3), max_norm=20.0),
    rules.Clip(rules.Mechanic(rules.AdamW(lr=0.01), s_init=0.1), max_norm=20.0),
    rules.Lookahead(rules.Centralized(rules.Noisy(rules.Orthogonalized(rules.ClipNorm(NADAM))))),
]


OWNS_PARAMETERS = {rules.MADGRAD, rules.DAdaptSGD, rules.ScheduleFreeSGD, rules.ScheduleFreeAdamW}


ESTIMATES_LR = {rules.Prodigy, rules.DAdaptAdam, rules.DAdaptSGD, rules.DoG, rules.LDoG, rules.DoWG}


AVERAGES = {rules.Lookahead, rules.MovingAverage, rules.PolyakAverage}


BOUNDS = {rules.ClipWeights, rules.FixedNorms}


MOVES_PARAMETERS = DECAYS - {rules.CoupledDecay} | BOUNDS | {rules.Lookahead, rules.Mechanic}


each_nest = pytest.mark.parametrize("rule", [*ELEMENTWISE, *WIDER], ids=lambda rule: rule.name)


@each_nest
def test_a_nest_passes_the_whole_kit_each_way_it_can_be_run(rule: rules.Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # so that other processes find `make_optimizer`
    batched = (
        rule.traits.scope in ("tensor", "matrix") and rule.traits.supports_vmap and not rule.traits.uses_random_numbers
    )
    backends = ("loop", "flat", "compiled") if rule in ELEMENTWISE else ("loop", "batched") if batched else ("loop",)
    conformance = check_optimizer(
        partial(make_optimizer, rule),
        variants={backend: partial(make_optimizer, rule, backend=backend) for backend in backends},
    )
    not_passed = {"agrees_with_the_reference": "skipped"}
    if not rule.traits.supports_complex:
        not_passed["takes_complex_parameters"] = "refused"
    if rule.traits.uses_random_numbers or rule.traits.needs_whole_matrices:
        not_passed["steps_alike_when_sharded"] = "refused"
    if "FixedNorms" in rule.name:  # it keeps a norm of zero, too
        not_passed["moves_parameters_that_start_at_zero"] = "failed"
    outcomes = {check.check: check.outcome for check in conformance.checks if check.outcome != "passed"}
    if rule.traits.scope == "model":  # a late parameter steps with the values of the model, not as a fresh one
        assert outcomes.pop("gives_a_late_parameter_a_first_step", None) in (None, "skipped")
    assert outcomes == not_passed, conformance
    assert conformance["waits_for_no_parameter"].number == 0


@pytest.mark.parametrize(
    "rule", [rule for rule in (*ELEMENTWISE, *WIDER) if rule.traits.supports_vmap], ids=lambda rule: rule.name
)
def test_a_population_equals_the_loop_bit_by_bit(rule: rules.Rule) -> None:
    numbers = {name: value for name, value in rule.settings().items() if isinstance(value, float)}
    members = [rule.with_(**{name: value * scale for name, value in numbers.items()}) for scale in (0.9, 1)]
    start, names = parameters(torch.float32), list("abcd")
    alone = [[param.clone() for param in start] for _ in members]
    optimizers = [make_optimizer(member, params) for member, params in zip(members, alone, strict=True)]
    stacks = dict(zip(names, (torch.stack([param, param]) for param in start), strict=True))
    stepper = population.PopulationStepper(members, stacks)
    for count in range(1, NUM_STEPS + 1):
        grads = [gradients_at(count, params) for params in alone]
        stepper.step(members, dict(zip(names, map(torch.stack, zip(*grads, strict=True)), strict=True)), count)
        for optimizer, params, member_grads in zip(optimizers, alone, grads, strict=True):
            set_gradients(params, member_grads)
            optimizer.step()
    for k, params in enumerate(alone):
        assert all(torch.equal(stacks[name][k], param) for name, param in zip(names, params, strict=True))


@each_nest
def test_a_resumed_nest_is_used_where_the_whole_one_is(rule: rules.Rule) -> None:
    whole, halved = parameters(torch.float32), parameters(torch.float32)
    optimizers = [make_optimizer(rule, params) for params in (whole, halved)]
    train(optimizers[0], whole)
    train(optimizers[1], halved, range(1, 11))
    file = io.BytesIO()
    torch.save(optimizers[1].state_dict(), file)
    file.seek(0)
    resumed = copy.deepcopy(pickle.loads(pickle.dumps(make_optimizer(rule, [param.clone() for param in halved]))))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert type(resumed) is type(optimizers[1])
    train(resumed, resumed.param_groups[0]["params"], range(11, NUM_STEPS + 1))
    assert torch.equal(flatten(resumed.param_groups[0]["params"]), flatten(whole))
    with optimizers[0].evaluating(), resumed.evaluating():
        assert torch.equal(flatten(resumed.param_groups[0]["params"]), flatten(whole))


def test_any_two_wrappers_nest_in_any_order_unless_they_say_why_not() -> None:
    for outer, inner in itertools.permutations(WRAPPERS, 2):
        if message := why_not(outer, inner):
            with pytest.raises(SettingError, match=message):
                outer(inner(ADAM))
            continue
        params, nest = parameters(torch.float32), outer(inner(ADAM))
        nest = nest.with_(s_init=1.0) if rules.Mechanic in (outer, inner) else nest  # the default's steps round to 0
        train(make_optimizer(nest, params, backend="loop"), params, range(1, 3))
        assert all(param.isfinite().all() for param in params)
        assert not torch.equal(params[0], parameters(torch.float32)[0])


def test_every_wrapper_goes_around_every_rule_or_says_why_not() -> None:
    rejected, messages = {wrapper: set() for wrapper in WRAPPERS}, []
    for wrapper, rule in itertools.product(WRAPPERS, RULES):
        try:
            assert len(Program(wrapper(rule())).coefficients(2)) >= len(Program(rule()).coefficients(2))
        except SettingError as error:
            rejected[wrapper].add(rule)
            messages.append(str(error))
    assert all("the inner rule must" in text or "twice" in text or "must be 0" in text for text in messages)
    decaying = {rule for rule in RULES if rule().settings().get("weight_decay")}
    remembering = {
        rule for rule in RULES if any(leaf.unit == "θ" for leaf in rule().layout(torch.Size([2, 2])).values())
    }
    curved = {rule for rule in RULES if rule.declared_traits.needs == "curvature"}
    with_eval_params = {rule for rule in RULES if rule().traits.has_eval_params}
    without_beta1 = {rule for rule in RULES if "beta1" not in rule().hypers()}
    expected = {
        **dict.fromkeys((rules.SAM, rules.ASAM), curved | {rules.Adadelta}),  # which has a `rho` too
        **dict.fromkeys(DECAYS - {rules.CoupledDecay}, decaying | OWNS_PARAMETERS | ESTIMATES_LR | LR_FACTORS),
        **dict.fromkeys((rules.MovingAverage, rules.PolyakAverage), with_eval_params),
        **dict.fromkeys((rules.Lookahead, rules.FixedNorms), OWNS_PARAMETERS | with_eval_params),
        rules.ClipWeights: OWNS_PARAMETERS | with_eval_params | {rules.Rprop},  # which has a `largest` too
        rules.CoupledDecay: decaying,
        rules.Cautious: OWNS_PARAMETERS,
        rules.GaLore: {rule for rule in RULES if rule.declared_traits.scope != "elementwise"} | remembering | curved,
        rules.Mechanic: remembering,
        rules.Mars: without_beta1 | {rules.Adan},  # which remembers the last gradient too
    }
    assert {wrapper: of_wrapper for wrapper, of_wrapper in rejected.items() if of_wrapper} == expected
    assert {rules.ScheduleFreeSGD, rules.ScheduleFreeAdamW, rules.ASGD} == with_eval_params
    assert {rule for rule in RULES if rule.declared_traits.owns_parameters} == OWNS_PARAMETERS
    assert {rule for rule in RULES if rule.declared_traits.estimates_lr} == ESTIMATES_LR


def test_a_nest_has_one_flat_set_of_settings_that_schedules_act_on() -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    nest = optim.optimizer_for(rules.Cautious(rules.Clip(rules.AdamW())))
    assert list(inspect.signature(nest).parameters)[:4] == ["params", "lr", "betas", "eps"]
    group = nest(ours, lr=0.02, max_norm=0.5).param_groups[0]
    assert (group["lr"], group["max_norm"], group["betas"]) == (0.02, 0.5, (0.9, 0.999))
    with pytest.raises(SettingError, match=r"^Clip\(AdamW\): max_norm must be > 0, got 0\."):
        nest(ours, max_norm=0.0)
    with pytest.raises(KeywordError, match="got 'max_nrm'. Did you mean max_norm"):
        nest(ours, max_nrm=1.0)
    running = make_optimizer(rules.Clip(rules.AdamW()), ours, lr=0.02, max_norm=15.0, weight_decay=0.3)
    reference = torch.optim.AdamW(theirs, lr=0.02, weight_decay=0.3)
    schedules = [ExponentialLR(optimizer, 0.9) for optimizer in (running, reference)]
    for step in range(1, NUM_STEPS + 1):
        train(running, ours, range(step, step + 1))
        set_gradients(theirs, gradients_at(step, theirs))
        running.param_groups[0]["max_norm"] *= 0.97
        clip_grad_norm_(theirs, 15 * 0.97 ** (step - 1))
        reference.step()
        for schedule in schedules:
            schedule.step()
    assert relative_error(flatten(ours), flatten(theirs)) <= TOLERANCE


@pytest.mark.parametrize("rule", WIDER[:3], ids=lambda rule: rule.name)
def test_nests_that_look_over_tensors_and_the_model_have_kernels(rule: rules.Rule) -> None:
    assert torch.equal(
        final_parameters(rule, torch.float32, backend="compiled"), final_parameters(rule, torch.float32, backend="loop")
    )
