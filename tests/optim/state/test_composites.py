"""Rules over the model inside of others: whose parameters their sums are over, and who shares their values."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.optim.state.patterns import PATTERNS, TARGETS, parameters
from thalweg import optim, rules
from thalweg.errors import SettingError

# --- composites -------------------------------------------------------------------------------------------------------


def composite(*members: rules.Rule) -> Any:
    return optim.optimizer_for(rules.Routed(members))


@pytest.mark.parametrize("backend", [None, "loop"])
@pytest.mark.parametrize(
    "members",
    [
        (rules.Prodigy(d0=0.01), rules.AdamW(lr=1.0, weight_decay=0.0)),
        (rules.Prodigy(d0=0.01), rules.DoG()),
        (rules.DoG(reps_rel=0.01), rules.Prodigy(d0=0.02)),
        (rules.DAdaptAdam(d0=0.01), rules.DAdaptSGD(d0=0.02)),
        (rules.Clip(rules.SGD(lr=0.1), max_norm=0.3), rules.Clip(rules.Adam(lr=0.1), max_norm=0.2)),
        (rules.Mechanic(rules.SGD(lr=0.1), s_init=0.1), rules.Clip(rules.Adam(lr=0.1), max_norm=0.2)),
    ],
    ids=lambda members: "+".join(member.name for member in members),
)
def test_sums_of_a_member_are_over_its_own_parameters(members: tuple[rules.Rule, rules.Rule], backend: Any) -> None:
    ends = []
    pattern = PATTERNS["late"]
    for routed in (True, False):
        params = parameters(torch.float32)
        if routed:
            names = rules.Routed(members).member_names
            groups = [{"params": [param], "rule": names[k == 0]} for k, param in enumerate(params)]
            optimizers = [composite(*members)(groups, backend=backend)]
        else:
            optimizers = [
                optim.optimizer_for(members[1])(params[:1], backend=backend),
                optim.optimizer_for(members[0])([{"params": [param]} for param in params[1:]], backend=backend),
            ]
        for step in range(20):
            for k, param in enumerate(params):
                param.grad = torch.tanh(param.detach() - TARGETS[k]) if k in pattern.present(step) else None
            for optimizer in optimizers:
                optimizer.step()
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)


def test_sums_around_a_composite_are_over_all_parameters_and_those_inside_over_their_own() -> None:
    outside, ends = 0.9, []
    for routed in (True, False):
        params = parameters()
        members = rules.Prodigy(d0=0.01), rules.DoG(reps_rel=0.01)
        if routed:
            rule = rules.Clip(rules.Routed(members), max_norm=outside)
            names = ("prodigy", "dog")
            optimizers = [
                optim.optimizer_for(rule)([{"params": [p], "rule": names[k > 1]} for k, p in enumerate(params)])
            ]
        else:
            optimizers = [optim.optimizer_for(members[0])(params[:2]), optim.optimizer_for(members[1])(params[2:])]
        for _ in range(15):
            for param, target in zip(params, TARGETS, strict=True):
                param.grad = torch.tanh(param.detach() - target)
            if not routed:
                nn.utils.clip_grad_norm_(params, outside)
            for optimizer in optimizers:
                optimizer.step()
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_a_member_shares_its_values_with_its_own_groups_alone() -> None:
    params = parameters()
    optimizer = composite(rules.Prodigy(d0=0.01), rules.DAdaptAdam(d0=0.02))(
        [{"params": [param], "rule": "dadapt_adam" if k == 0 else "prodigy"} for k, param in enumerate(params)]
    )
    for step in range(20):
        for k, param in enumerate(params):
            param.grad = None if k == 2 and step < 10 else torch.tanh(param.detach() - TARGETS[k])
        optimizer.step()
    d = [float(optimizer.state[param]["d"]) for param in params]
    assert d[0] != d[1] == d[2]
    with pytest.raises(SettingError, match="the same d0"):
        optimizer.add_param_group({"params": [torch.ones(2)], "rule": "prodigy", "d0": 0.5})
    optimizer.add_param_group({"params": [torch.ones(2)], "rule": "prodigy", "dadapt_adam_d0": 0.5})


def test_blocks_of_a_split_parameter_share_the_values() -> None:
    grads = torch.arange(8.0, dtype=torch.float64).reshape(4, 2) - 3
    ends = []
    for rule in (rules.Prodigy(d0=0.1), rules.Split(rules.Prodigy(d0=0.1), row_blocks=2)):
        param = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        late = torch.ones(6, 2, dtype=torch.float64, requires_grad=True)
        optimizer = optim.optimizer_for(rule)([param, late])
        for step in range(10):
            param.grad = torch.tanh(param.detach() - grads)
            late.grad = torch.ones_like(late) if step > 5 else None
            optimizer.step()
        assert torch.equal(optimizer.state[param]["d"], optimizer.state[late]["d"])
        ends.append([param, late])
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_an_average_of_one_member_of_a_composite_counts_the_steps_of_the_optimizer() -> None:
    params = parameters()
    members = rules.MovingAverage(rules.SGD(lr=0.1), average_decay=0.8), rules.AdamW(lr=0.1)
    names = rules.Routed(members).member_names
    optimizer = composite(*members)([{"params": [p], "rule": names[k > 1]} for k, p in enumerate(params)])
    model = nn.ParameterList(params[:2])
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    for step in range(12):
        for k, param in enumerate(params):
            present = k == 0 if step % 3 == 0 else k == 2 if step % 3 == 1 else True
            param.grad = torch.tanh(param.detach() - TARGETS[k]) if present else None
        optimizer.step()
        expected.update_parameters(model)
        with optimizer.evaluating():
            got = [param.detach().clone() for param in model]
        torch.testing.assert_close(got, [p.detach() for p in expected.module], rtol=1e-12, atol=1e-13)
