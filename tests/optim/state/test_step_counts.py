"""Counts of steps beyond 2**24, where a number in float32 stops."""

import copy
from typing import Any

import pytest
import torch

from thalweg import optim, rules

LIMIT = 2**24


def continued(optimizer: torch.optim.Optimizer, param: torch.Tensor, count: int) -> torch.optim.Optimizer:
    """Take a step, and set the count of a parameter."""
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[param]["step"].fill_(count)
    return optimizer


@pytest.mark.parametrize("count", [LIMIT - 2, LIMIT, 2**31, 2**40])
@pytest.mark.parametrize("num_params", [1, 3])
def test_counts_go_on(count: int, num_params: int) -> None:
    params = [torch.ones(2, requires_grad=True) for _ in range(num_params)]
    optimizer = optim.Adam(params, backend="loop")
    for param in params:
        continued(optimizer, param, count)
    for param in params:
        optimizer.state[param]["step"].fill_(count)
    for _ in range(4):
        optimizer.step()
    assert [int(optimizer.state[param]["step"]) for param in params] == [count + 4] * num_params


def test_a_checkpoint_keeps_the_exact_count() -> None:
    param, twin = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = continued(optim.Adam([param], backend="loop"), param, LIMIT + 1)
    resumed = optim.Adam([twin], backend="loop")
    resumed.load_state_dict(optimizer.state_dict())
    twin.grad = torch.ones(2)
    resumed.step()
    assert int(resumed.state[twin]["step"]) == LIMIT + 2


@pytest.mark.parametrize("settings", [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}], ids=str)
def test_checkpoints_cross_between_torch_and_us(settings: dict[str, Any]) -> None:
    ours, theirs, both = (torch.full((3,), 2.0, requires_grad=True) for _ in range(3))
    mine = {key: value for key, value in settings.items() if key == "amsgrad"}
    first = continued(optim.Adam([ours], lr=0.1, backend="loop", **mine), ours, 7)
    torch_adam = torch.optim.Adam([theirs], lr=0.1, **settings)
    theirs.data.copy_(ours.detach())
    groups = torch_adam.state_dict()["param_groups"]
    saved = copy.deepcopy(first.state_dict()["state"])  # torch goes on with the tensors that it loads
    torch_adam.load_state_dict({"state": saved, "param_groups": groups})
    theirs.grad = torch.ones(3)
    torch_adam.step()
    back = optim.Adam([both], lr=0.1, backend="loop", **mine)
    both.data.copy_(theirs.detach())
    back.load_state_dict(copy.deepcopy(torch_adam.state_dict()))
    both.grad = torch.ones(3)
    back.step()
    for _ in range(2):
        first.step()
    assert int(back.state[both]["step"]) == 9
    torch.testing.assert_close(both, ours)


def test_stochastic_rounding_draws_new_bits_at_every_step() -> None:
    param = torch.ones(400, dtype=torch.bfloat16, requires_grad=True)
    optimizer = continued(optim.SGD([param], lr=1e-3, rounding="stochastic", backend="loop"), param, LIMIT)
    ends = []
    for _ in range(3):
        param.data.fill_(1.0)
        optimizer.step()
        ends.append(param.detach().clone())
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])


def test_noise_and_signs_differ_between_steps() -> None:
    param = torch.zeros(50, requires_grad=True)
    optimizer = continued(
        optim.optimizer_for(rules.Noisy(rules.SGD(), noise=1e6))([param], lr=1.0, backend="loop"), param, LIMIT
    )
    ends = []
    for _ in range(2):
        param.data.zero_()
        optimizer.step()
        ends.append(param.detach().clone())
    assert not torch.equal(*ends)


def test_soap_goes_on_updating_its_basis() -> None:
    param = torch.zeros(3, 3, requires_grad=True)
    optimizer = continued(optim.SOAP([param], update_every=4), param, LIMIT)
    generator = torch.Generator().manual_seed(0)
    changes = []
    for _ in range(9):
        before = optimizer.state[param]["basis_0"].clone()
        param.grad = torch.randn(3, 3, generator=generator)
        optimizer.step()
        changes.append(not torch.equal(optimizer.state[param]["basis_0"], before))
    assert changes == [step % 4 == 0 for step in range(LIMIT, LIMIT + 9)]


def test_what_happens_every_few_steps_goes_on_happening() -> None:
    for rule, key in (
        (rules.Lookahead(rules.SGD(), every=3), "slow_param"),
        (rules.GaLore(rules.Adam(), rank=1, update_gap=3), "projector"),
        (rules.Shampoo(update_every=3), "inv_precond_0"),
        (rules.PSGDKron(update_first=0, update_every=3), "factor_0"),
    ):
        param = torch.ones(3, 4, requires_grad=True)
        optimizer = continued(optim.optimizer_for(rule)([param], backend="loop"), param, LIMIT)
        generator = torch.Generator().manual_seed(0)
        changes = []
        for _ in range(6):
            before = optimizer.state[param][key].clone()
            param.grad = torch.randn(3, 4, generator=generator)
            optimizer.step()
            changes.append(not torch.equal(optimizer.state[param][key], before))
        assert sum(changes) == 2, rule.name
        assert changes[:3] == changes[3:], rule.name


def test_rules_change_places_at_a_step_beyond_the_limit() -> None:
    param = torch.ones(2, requires_grad=True)
    switched = rules.Switched((rules.SGD(momentum=0.9), rules.Adam()), switch_at=LIMIT + 2)
    optimizer = continued(optim.optimizer_for(switched)([param], lr=0.0, backend="loop"), param, LIMIT)
    seen = []
    for _ in range(4):
        optimizer.step()
        seen.append(any(key.endswith("exp_avg") for key in optimizer.state[param]))
    assert seen == [False, False, True, True]


def test_restarts_without_stretch_are_found_at_once_after_many_periods() -> None:
    rule = rules.WarmRestarts(rules.SGD(lr=1.0), period=2, stretch=1)
    assert [round(rule.coefficients(2**45 + k).lr, 9) for k in (1, 2, 3)] == [1.0, 0.5, 1.0]
