"""Settings of the groups of a rule over the model: some must be equal in all groups, all others may differ."""

import copy

import pytest
import torch

from tests.optim.state.patterns import ALL, MODEL_WIDE, PATTERNS, TARGETS, Pattern, parameters, run
from thalweg import optim
from thalweg.errors import SettingError


@pytest.mark.parametrize("name", MODEL_WIDE)
def test_groups_of_one_learning_rate_step_as_one_group(name: str) -> None:
    kind, ends = optim.optimizer_for(MODEL_WIDE[name]), []
    for grouped in (True, False):
        params = parameters()
        optimizer = kind([{"params": [param]} for param in params] if grouped else params)
        for step in range(20):
            for k, param in enumerate(params):
                param.grad = None if step < 5 and k == 1 else torch.tanh(param.detach() - TARGETS[k])
            optimizer.step()
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptSGD", "DoG", "DoWG"])
def test_a_group_at_a_learning_rate_of_0_is_left_out_as_if_it_had_no_gradient(name: str) -> None:
    kind, ends = optim.optimizer_for(MODEL_WIDE[name]), []
    for pattern in (
        PATTERNS["a group at 0 for a while"],
        Pattern(lambda step: (0, 2) if 5 <= step < 12 else ALL),
    ):
        params = parameters()
        optimizer = run(kind, pattern, params)
        state = [entry for param in params for key, entry in optimizer.state[param].items() if key != "step"]
        ends.append([*params, *state])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


@pytest.mark.parametrize("name", MODEL_WIDE)
def test_a_group_that_is_added_joins_as_one_that_was_frozen(name: str) -> None:
    kind, ends = optim.optimizer_for(MODEL_WIDE[name]), []
    for is_added in (True, False):
        params = parameters(torch.float32)
        optimizer = kind([{"params": params[:2]}, *([] if is_added else [{"params": params[2:]}])])
        for step in range(14):
            if is_added and step == 6:
                optimizer.add_param_group({"params": params[2:]})
            for k, param in enumerate(params):
                param.grad = torch.tanh(param.detach() - TARGETS[k]) if k < 2 or step >= 6 else None
            optimizer.step()
        ends.append(params)
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


# --- settings that must be equal --------------------------------------------------------------------------------------

DIFFERENT = {
    "Prodigy": {"d0": 1e-3, "growth_rate": 2.0, "d_coef": 0.5, "beta3": 0.5, "betas": (0.9, 0.9)},
    "DAdaptAdam": {"d0": 1e-3, "growth": 2.0, "betas": (0.9, 0.9)},
    "DAdaptSGD": {"d0": 1e-3, "growth": 2.0},
    "DoG": {"reps_rel": 1e-3},
    "DoWG": {"eps": 1e-3},
    "Mechanic": {"s_init": 0.3, "s_decay": 0.1, "mechanic_eps": 0.1},
}


MAY_DIFFER = {
    "Prodigy": {"lr": 0.5, "weight_decay": 0.1, "eps": 1e-3, "betas": (0.5, 0.999)},
    "DAdaptAdam": {"lr": 0.5, "weight_decay": 0.1, "eps": 1e-3, "betas": (0.5, 0.999)},
    "DAdaptSGD": {"lr": 0.5, "weight_decay": 0.1, "momentum": 0.5},
    "DoG": {"lr": 0.5, "weight_decay": 0.1, "eps": 1e-3},
    "DoWG": {"lr": 0.5, "weight_decay": 0.1},
    "Mechanic": {"lr": 0.5, "weight_decay": 0.1, "eps": 1e-3, "betas": (0.5, 0.9)},
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in DIFFERENT.items() for key in keys])
def test_settings_of_the_model_must_be_equal_in_all_groups(name: str, key: str) -> None:
    kind, value = optim.optimizer_for(MODEL_WIDE[name]), DIFFERENT[name][key]
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    message = r"all groups must have the same \w+, since it enters values of the whole model, got .* Pass it to the "
    with pytest.raises(SettingError, match=message):
        kind([{"params": [first]}, {"params": [second], key: value}])
    optimizer = kind([first])
    with pytest.raises(SettingError, match=message):
        optimizer.add_param_group({"params": [second], key: value})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [second]})
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1][key] = value
    with pytest.raises(SettingError, match=message):
        optimizer.load_state_dict(saved)
    first.grad = second.grad = torch.ones(2)
    before = optimizer.param_groups[1][key]
    optimizer.param_groups[1][key] = value
    with pytest.raises(SettingError, match=message):
        optimizer.step()
    assert torch.equal(first, torch.ones(2))
    optimizer.param_groups[0][key] = value
    optimizer.step()  # equal again
    optimizer.param_groups[0][key] = optimizer.param_groups[1][key] = before
    optimizer.step()


@pytest.mark.parametrize("name", MAY_DIFFER)
def test_all_other_settings_may_differ(name: str) -> None:
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:], **MAY_DIFFER[name]}]
    optimizer = optim.optimizer_for(MODEL_WIDE[name])(groups)
    for _ in range(5):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    assert all(param.isfinite().all() for param in params)


def test_beta2_of_prodigy_may_differ_if_beta3_does_not_follow_from_it() -> None:
    first, second = parameters()[:2]
    optim.Prodigy([{"params": [first]}, {"params": [second], "betas": (0.9, 0.9)}], beta3=0.9)


def test_lbfgs_refuses_different_groups_when_they_are_made() -> None:
    first, second = parameters()[:2]
    with pytest.raises(SettingError, match=r"LBFGS: all groups must have the same lr, got 1.0 and 0.5"):
        optim.LBFGS([{"params": [first]}, {"params": [second], "lr": 0.5}])
    optimizer = optim.LBFGS([first])
    with pytest.raises(SettingError, match=r"LBFGS: all groups must have the same lr"):
        optimizer.add_param_group({"params": second, "lr": 0.5})
    assert len(optimizer.param_groups) == 1
