"""Parameters without a gradient: averages of weights count the step for them, and all other state stays."""

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from tests.optim.state.patterns import PATTERNS, TARGETS, Pattern, parameters
from thalweg import optim, rules
from thalweg.errors import ParameterError

# --- averages ---------------------------------------------------------------------------------------------------------

AVERAGES: dict[str, tuple[rules.Rule, Callable[[nn.Module], AveragedModel], int]] = {
    "moving": (
        rules.MovingAverage(rules.SGD(lr=0.1), average_decay=0.8),
        lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
        0,
    ),
    "plain": (rules.PolyakAverage(rules.SGD(lr=0.1)), AveragedModel, 0),
    "plain, from step 11 on": (rules.PolyakAverage(rules.SGD(lr=0.1), start=10), AveragedModel, 10),
    "of decayed parameters": (
        rules.DecoupledDecay(rules.MovingAverage(rules.SGD(lr=0.1), average_decay=0.8), weight_decay=0.5),
        lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
        0,
    ),
    "of a rule over the model": (
        rules.MovingAverage(rules.Prodigy(d0=0.1), average_decay=0.8),
        lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
        0,
    ),
}


def steps_with_gradients(pattern: Pattern) -> Iterator[tuple[int, Sequence[int]]]:
    for step in range(30):
        yield step, pattern.present(step + 1)  # no average begins before the first gradient


@pytest.mark.parametrize(
    ("pattern", "resumed", "backend"),
    [
        *(
            (pattern, resumed, "loop")
            for pattern in ("all", "late", "frozen later", "every other step", "never together")
            for resumed in (False, True)
        ),
        ("every other step", False, "compiled"),
    ],
)
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_those_of_torch_at_every_step(name: str, pattern: str, resumed: bool, backend: Any) -> None:
    rule, average, start = AVERAGES[name]
    dtype = torch.float32 if backend == "compiled" else torch.float64
    params = parameters(dtype)
    model = nn.ParameterList(params)
    assert all(map(operator.is_, model, params))
    expected = average(model)
    kind = optim.optimizer_for(rule)
    optimizer: Any = kind([{"params": params[:1]}, {"params": params[1:]}], backend=backend)
    for step, present in steps_with_gradients(replace(PATTERNS[pattern])):
        present = () if step in (4, 12, 13) else present
        for k, param in enumerate(model):
            param.grad = torch.tanh(param.detach() - TARGETS[k]) + 0.2 * (step % 3) if k in present else None
        optimizer.step()
        if step >= start:
            expected.update_parameters(model)
        if resumed and step % 7 == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = kind([{"params": params[:1]}, {"params": params[1:]}], backend=backend)
            optimizer.load_state_dict(saved)
        now = [param.detach().clone() for param in model]
        with optimizer.evaluating():
            wanted = list(expected.module) if step >= start else now
            tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
            torch.testing.assert_close([p.detach() for p in model], [p.detach() for p in wanted], **tolerance)


def test_a_value_that_the_user_gives_a_resting_parameter_is_averaged() -> None:
    first, resting = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer: Any = optim.optimizer_for("moving_average(sgd)")([first, resting], lr=0.1, average_decay=0.5)
    for step in range(3):
        first.grad = torch.ones_like(first)
        resting.grad = torch.ones_like(resting) if step == 0 else None
        optimizer.step()
    with torch.no_grad():
        resting.fill_(8.0)
    with optimizer.evaluating():  # the two missed steps count for the value that the parameter has now
        torch.testing.assert_close(resting.detach(), torch.full_like(first, 0.25 * -0.1 + 0.75 * 8.0))


# --- a parameter without a gradient, in every rule --------------------------------------------------------------------

EVERY_RULE = [*(case.rule for case in rule_cases.CASES), *(case.rule for case in wrapper_cases.CASES)]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.name)
def test_a_parameter_without_a_gradient_stays_with_all_state_that_is_its_own(rule: rules.Rule) -> None:
    generator = torch.Generator().manual_seed(4)
    params = [torch.randn(4, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    optimizer = optim.optimizer_for(rule)(params)

    def step(present: Sequence[Tensor]) -> None:
        def closure() -> Tensor:
            for param in params:
                param.grad = param.detach().sin() + 0.3 if any(param is each for each in present) else None
            return sum((param.detach().cos() for param in present), torch.zeros(4, 4)).sum()

        closure()
        if rule.traits.needs == "curvature":
            optimizer.absorb_gauss_newton(3)
        optimizer.zero_grad()
        optimizer.step(closure)

    step(params[1:])  # the first parameter is late
    assert params[0] not in optimizer.state
    step(params)
    before = copy.deepcopy((params[0], dict(optimizer.state[params[0]])))
    step(params[1:])
    text = rules.explain(rule).semantics["without a gradient"]
    shared = {tensor.key for tensor in rule.layout(params[0].shape).values() if tensor.shared}
    moves_on = {"model_steps", "average_share"} if "average moves on" in text else set()
    assert torch.equal(params[0], before[0])
    for key, entry in optimizer.state[params[0]].items():
        if key in shared:
            assert torch.equal(entry, optimizer.state[params[1]][key])
        elif key in moves_on:
            assert not torch.equal(entry, before[1][key]), key
        else:
            assert torch.equal(entry, before[1][key]), key
    assert ("follow the model" in text) == bool(shared)


@pytest.mark.parametrize("name", ["prodigy", "dog", "mechanic(sgd)", "moving_average(sgd)"])
def test_parameters_that_step_together_are_given_once(name: str) -> None:
    params = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
    with pytest.raises(ParameterError, match="a group must have each parameter once"):
        optim.optimizer_for(name)([params[0], params[1], params[0]])
