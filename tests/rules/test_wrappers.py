"""Every wrapper against a reference, and the properties that every nest of wrappers must have."""

import copy
import inspect
import io
import itertools
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ExponentialLR

from cases.references.wrapping import set_gradients
from cases.rules import parameters, relative_error
from cases.wrappers import (
    ADAM,
    CASES,
    NUM_STEPS,
    SGD,
    Case,
    final_parameters,
    flatten,
    gradients_at,
    make_optimizer,
    train,
)
from thalweg import optim, rules
from thalweg.engine import population
from thalweg.engine.core.program import Program
from thalweg.errors import KeywordError, ParameterError, SettingError
from thalweg.rules import wrappers
from thalweg.testing import check_optimizer

TOLERANCE = 1e-11
WRAPPERS = [getattr(wrappers, name) for name in wrappers.__all__]
LR_FACTORS = {rules.Adadelta, rules.AdaHessian, rules.LARS}  # rules whose learning rate is near 1, beside ESTIMATES_LR
DECAYS = {rules.CautiousDecay, rules.CoupledDecay, rules.DecoupledDecay, rules.FullyDecoupledDecay}
KINDS = [getattr(rules, name) for name in optim.__all__ if hasattr(rules, name)]
RULES = [
    kind for kind in KINDS if kind.declared_traits.needs != "closure"
]  # L-BFGS goes into none: tests/optim/closures/test_lbfgs.py


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


def own_settings(rule: rules.Wrapper) -> list[str]:
    """Return the settings of the outermost wrapper; of Split only one, since at most one may be set."""
    return ["row_blocks"] if isinstance(rule, rules.Split) else list(rule.declared_hypers())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_its_reference_at_several_settings_each_of_which_matters(case: Case) -> None:
    start = flatten(parameters(torch.float64, case.shapes))
    change = final_parameters(case.rule, shapes=case.shapes)[: len(start)] - start
    expected = case.reference(case.rule)
    assert relative_error(change, expected[: len(start)] - start) <= TOLERANCE
    for name in own_settings(case.rule):
        value = case.rule.settings()[name]
        changed = case.rule.with_(**{name: value + 1 if isinstance(value, int) else 0.7 * value})
        moved = final_parameters(changed, shapes=case.shapes)
        assert relative_error(moved, case.reference(changed)) <= TOLERANCE
        assert relative_error(moved, expected) > 1e6 * TOLERANCE, name


def test_every_setting_of_every_wrapper_is_off_its_default_in_a_case() -> None:
    assert {type(case.rule) for case in CASES} == set(WRAPPERS)
    for case in CASES:
        for name in own_settings(case.rule):
            assert case.rule.settings()[name] != case.rule.hypers()[name].default


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


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.declared_traits.needs == "gradient"])
def test_restarts_do_to_every_rule_what_a_schedule_of_torchs_does(rule: type[rules.Rule]) -> None:
    ours, theirs = (
        [param for param in parameters(torch.float64) if param.dim() >= rule.declared_traits.min_dims] for _ in range(2)
    )
    least = rule().settings()["lr"] / 10
    restarting = make_optimizer(rules.WarmRestarts(rule(), period=4, lr_min=least), ours, backend="loop")
    scheduled = make_optimizer(rule(), theirs, backend="loop")
    schedule = CosineAnnealingWarmRestarts(scheduled, T_0=4, T_mult=2, eta_min=least)
    for step in range(1, NUM_STEPS + 1):
        train(restarting, ours, range(step, step + 1))
        train(scheduled, theirs, range(step, step + 1))
        schedule.step()
    start = flatten(parameters(torch.float64))[: len(flatten(ours))]
    assert relative_error(flatten(ours) - start, flatten(theirs) - start) <= TOLERANCE


def test_decay_follows_the_restarts_of_the_learning_rate_on_either_side() -> None:
    for decay in DECAYS - {rules.CoupledDecay}:
        inside, outside = decay(rules.WarmRestarts(ADAM, period=4)), rules.WarmRestarts(decay(ADAM), period=4)
        assert torch.equal(*(final_parameters(rule.with_(weight_decay=0.01)) for rule in (inside, outside)))


@pytest.mark.parametrize("rule", [rules.Lookahead(ADAM, every=1), rules.SAM(ADAM)], ids=lambda rule: rule.name)
def test_a_setting_at_the_end_of_its_bound_has_a_kernel_and_so_has_a_second_gradient(rule: rules.Rule) -> None:
    assert torch.equal(
        final_parameters(rule, torch.float32, backend="compiled"), final_parameters(rule, torch.float32, backend="loop")
    )


@pytest.mark.parametrize("rule", WIDER[:3], ids=lambda rule: rule.name)
def test_nests_that_look_over_tensors_and_the_model_have_kernels(rule: rules.Rule) -> None:
    assert torch.equal(
        final_parameters(rule, torch.float32, backend="compiled"), final_parameters(rule, torch.float32, backend="loop")
    )


# --- where the model is used, second gradients, noise -----------------------------------------------------------------


def test_evaluation_moves_the_parameters_and_puts_them_back_exactly() -> None:
    """In which order, and what may happen meanwhile: tests/optim/test_evaluation_mode.py."""
    params = parameters(torch.bfloat16)
    optimizer = make_optimizer(rules.Clip(rules.MovingAverage(rules.AdamW(lr=0.1), average_decay=0.5)), params)
    train(optimizer, params)
    trained, average = [param.clone() for param in params], [optimizer.state[param]["average"] for param in params]
    optimizer.eval()
    assert torch.equal(flatten(params), flatten(average).bfloat16())
    assert not torch.equal(flatten(params), flatten(trained))
    optimizer.train()
    assert torch.equal(flatten(params), flatten(trained))
    with pytest.raises(KeyError), optimizer.evaluating():
        assert not torch.equal(flatten(params), flatten(trained))
        raise KeyError
    assert torch.equal(flatten(params), flatten(trained))


def test_parameters_that_share_memory_come_back_from_an_evaluation() -> None:
    memory = torch.zeros(4)
    optimizer = make_optimizer(rules.MovingAverage(rules.SGD(lr=1.0)), [memory[:3], memory[1:]])
    for _ in range(3):
        set_gradients(optimizer.param_groups[0]["params"], [torch.ones(3), torch.ones(3)])
        optimizer.step()
    before = memory.clone()
    with optimizer.evaluating():
        assert not torch.equal(memory, before)
    assert torch.equal(memory, before)


def test_a_second_gradient_needs_a_closure_and_leaves_nothing_moved_if_that_fails() -> None:
    params = parameters(torch.float32)
    optimizer = make_optimizer(rules.Clip(rules.SAM(ADAM, rho=0.5)), params)
    set_gradients(params, gradients_at(1, params))
    with pytest.raises(ParameterError, match=r"^Clip\(SAM\(Adam\)\): a step needs a second gradient, got no closure"):
        optimizer.step()
    optimizer.zero_grad()
    calls = []

    def closure() -> None:
        calls.append(flatten(params))
        set_gradients(params, gradients_at(1, params))
        if len(calls) == 2:
            raise KeyError

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert abs(float((calls[1] - calls[0]).norm()) - 0.5) < 1e-5
    assert torch.equal(flatten(params), calls[0])
    assert torch.equal(flatten(params), flatten(parameters(torch.float32)))
    with pytest.raises(SettingError, match="must need gradients alone, got AdaHessian, which needs curvature"):
        rules.SAM(rules.AdaHessian())


def noise_of_step(step: int = 1, seed: int = 0, **settings: float) -> list[Tensor]:
    """The noise of two parameters at a step."""
    params = [torch.zeros(200, 200) for _ in range(2)]
    optimizer = make_optimizer(rules.Noisy(rules.SGD(lr=1.0), **settings), params, seed=seed)
    for _ in range(step):
        before = [param.clone() for param in params]
        set_gradients(params, [torch.zeros(200, 200)] * 2)
        optimizer.step()
    return [old - param for old, param in zip(before, params, strict=True)]


def test_noise_has_the_stated_variance_and_is_another_for_each_parameter_step_and_seed() -> None:
    for step in (1, 7):
        for noise in noise_of_step(step, noise=0.5, fading=0.6):
            z = (noise.double() / (0.5 / (1 + step) ** 0.6) ** 0.5).flatten()
            assert abs(z.mean()) < 4 / 200
            assert abs(z.var() - 1) < 4 * 2**0.5 / 200
            assert abs((z**4).mean() - 3) < 4 * 96**0.5 / 200  # as of a Gaussian
    assert all(map(torch.equal, noise_of_step(), noise_of_step()))
    streams = torch.stack([noise.flatten() for noise in (*noise_of_step(), *noise_of_step(2), *noise_of_step(seed=1))])
    assert (torch.corrcoef(streams) - torch.eye(6)).abs().max() < 5 / 200


def test_mechanic_finds_the_scale_that_the_learning_rate_missed() -> None:
    """The steps are the same for every inner learning rate; without Mechanic they would be useless."""
    curvature = torch.tensor([1.0, 0.1], dtype=torch.float64)

    def after_steps(rule: rules.Rule) -> Tensor:
        param = torch.tensor([3.0, -2.0], dtype=torch.float64)
        optimizer = make_optimizer(rule, [param])
        for _ in range(400):
            set_gradients([param], [curvature * param])
            optimizer.step()
        return param

    for lr in (1e-7, 1e-4, 10.0):
        tuned = after_steps(rules.Mechanic(rules.SGD(lr=lr), mechanic_eps=1e-30))
        assert (curvature * tuned**2).sum() < 0.05 * 9.4, lr  # of the loss at the start
    alone = after_steps(rules.SGD(lr=1e-4))
    assert (curvature * alone**2).sum() > 8


def test_what_moves_the_parameters_around_mechanic_is_not_undone() -> None:
    tuned = rules.Mechanic(ADAM, s_init=1e-30)  # which leaves parameters where they are
    params = parameters(torch.float64)
    train(make_optimizer(rules.ClipWeights(tuned, largest=0.3), params), params, range(1, 11))
    assert relative_error(flatten(params), flatten(parameters(torch.float64)).clamp(-0.3, 0.3)) <= TOLERANCE


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_differentiable_step_sees_the_whole_model() -> None:
    final_parameters = []
    for differentiable in (False, True):
        params = parameters(torch.float64)
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        optimizer = make_optimizer(rules.Clip(SGD, max_norm=1.0), groups, differentiable=differentiable)
        train(optimizer, params)
        final_parameters.append(flatten(params))
    assert relative_error(*final_parameters) <= TOLERANCE


def test_no_step_is_made_of_rounding_errors() -> None:
    """A single number has no part that is orthogonal to it."""
    params = [torch.tensor(value) for value in (0.3, 0.7, 1.3)] + [torch.linspace(0.1, 1, 50)]
    before = flatten(params).clone()
    optimizer = make_optimizer(rules.Orthogonalized(rules.SGD(lr=1.0)), params)
    set_gradients(params, [0.37 * param for param in params])
    optimizer.step()
    assert (flatten(params) - before).abs().max() < 1e-6


def test_wrappers_to_which_dimensions_mean_something_refuse_complex_numbers() -> None:
    rejecting = {wrapper for wrapper in WRAPPERS if not wrapper(ADAM).traits.supports_complex}
    assert rejecting == {rules.Centralized, rules.ClipAdaptive, rules.FixedNorms, rules.GaLore, rules.Split}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_documents_itself(wrapper: type[rules.Wrapper]) -> None:
    rule = wrapper(ADAM)
    explained = rules.explain(rule)
    assert explained.title.lower() == wrapper.summary().lower()
    assert all((explained.formula, explained.source, explained.departs, explained.use, explained.avoid))
    assert {hyper.name: hyper.value for hyper in explained.hypers} == rule.settings()
    for name in own_settings(rule):
        assert rule.hypers()[name].symbol in inspect.getmodule(wrapper).__doc__
    assert explained.scope == rule.traits.scope
