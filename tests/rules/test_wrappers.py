"""Every wrapper against a reference, and what single wrappers promise."""

import inspect

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

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
from tests.rules.kinds import DECAYS, RULES, TOLERANCE, WRAPPERS
from thalweg import rules
from thalweg.errors import ParameterError, SettingError


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
