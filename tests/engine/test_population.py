"""A member of a population takes the steps of the loop, bit by bit."""

from contextlib import nullcontext

import pytest
import torch

from cases.rules import CASES, Case, gradients, parameters
from thalweg.engine import population
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.errors import SettingError
from thalweg.rules import SGD, Adam, Noisy, Rule


def members_of(rule: Rule) -> list[Rule]:
    """Three members that differ in every number."""
    numbers = {
        name: getattr(rule, name)
        for name, declared in rule.hypers().items()
        if not declared.is_static and getattr(rule, name) != 0
    }

    def allowed(name: str, value: float) -> bool:
        try:
            return rule.with_(**{name: value}).code_key == rule.code_key
        except SettingError:  # out of bounds, or not allowed with a switch
            return False

    def scaled(factor: float) -> Rule:
        candidates = {name: value * factor for name, value in numbers.items()}
        return rule.with_(**{name: value for name, value in candidates.items() if allowed(name, value)})

    return [scaled(factor) for factor in (0.7, 1.0, 1.02)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.rule.traits.supports_vmap], ids=str)
@pytest.mark.parametrize("path", ["from the host", "under vmap", "on the device"])
def test_a_population_equals_the_loop_bit_by_bit(case: Case, dtype: torch.dtype, path: str) -> None:
    rules = members_of(case.rule)
    names = [str(index) for index in range(len(case.shapes))]
    start = dict(zip(names, parameters(dtype, case.shapes), strict=True))
    params = {name: torch.stack([param] * len(rules)) for name, param in start.items()}
    stepper = population.PopulationStepper(rules, params, on_device=path == "on the device")
    if path == "under vmap":
        stepper._runner = None
    elif path == "on the device":
        assert (stepper._joined_state is None) == (case.rule.traits.scope != "elementwise")
    alone = [dict(start) for _ in rules]
    recurrent = [Program(rule).initial_recurrent_scalars() for rule in rules]
    states = [{name: Program(rule).init(param) for name, param in start.items()} for rule in rules]
    for count, grads in enumerate(gradients(20, dtype, case.shapes), start=1):
        if path == "on the device" and count in (1, 8, 9):  # several steps are loaded at once
            last = {1: 7, 8: 8, 9: 20}[count]
            stepper.load_scalars([rules] * (last - count + 1), count)
        # Each member sees other gradients.
        stacked = {
            name: torch.stack([grad * (1 + k) for k in range(len(rules))])
            for name, grad in zip(names, grads, strict=True)
        }
        if path == "on the device":
            stepper.step_loaded(stacked)
        else:
            stepper.step(rules, stacked, count)
        for k, rule in enumerate(rules):
            c = Program(rule).coefficients(count, previous=recurrent[k])
            recurrent[k] = Program(rule).recurrent_scalars_of(c)
            items = [
                loop.TensorStep(Program(rule), alone[k][name], stacked[name][k], states[k][name], c) for name in names
            ]
            for name, (param, state) in zip(names, loop.update(items), strict=True):
                alone[k][name], states[k][name] = param, state
    for k in range(len(rules)):
        for name in names:
            if case.has_kernel and case.rule.traits.scope != "matrix":
                assert torch.equal(params[name][k], alone[k][name])
            else:  # powers depend on the address of an element, products of matrices on their number
                in_float32 = "products" in case.settings
                unit = max(1e-5, torch.finfo(dtype).eps)
                tolerance = {"rtol": unit, "atol": 1e-5} if in_float32 else {}
                torch.testing.assert_close(params[name][k], alone[k][name], **tolerance)


def test_a_default_device_does_not_change_a_population() -> None:
    members = [Noisy(Adam(lr=0.1)), Noisy(Adam(lr=0.2))]
    params = [{"0": torch.ones(2, 5)} for _ in range(2)]
    for around, stacks in zip((nullcontext(), torch.device("meta")), params, strict=True):
        grads = {"0": torch.ones(2, 5)}
        with around:
            population.PopulationStepper(members, stacks).step(members, grads, 1)
    assert torch.equal(params[0]["0"], params[1]["0"])
    assert params[0]["0"].isfinite().all()


def test_members_may_differ_in_numbers_but_not_in_program() -> None:
    def num_keys(*rules: Rule) -> int:
        return len({population.program_key(rule, [torch.Size([3])]) for rule in rules})

    assert num_keys(Adam(lr=0.1), Adam(lr=0.2, beta1=0.5)) == 1
    assert num_keys(Adam(), Adam(amsgrad=True)) == 2
    assert num_keys(SGD(), SGD(momentum=0.9)) == 2
    assert num_keys(SGD(), Adam()) == 2
