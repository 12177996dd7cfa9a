"""Parameters that join late, rest, are frozen or have another learning rate, and the rules that look at all of them."""

import copy
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import prodigyopt
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.references import by_tensor, estimating
from thalweg import optim, rules
from thalweg.errors import ParameterError, SettingError

SIZES = (3, 2, 4)
TARGETS = (3.0, -2.0, 5.0)
ALL = (0, 1, 2)


def targets() -> list[Tensor]:
    """Return where the gradients vanish: for each parameter, near its number in TARGETS."""
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.rand(size, generator=generator, dtype=torch.float64) for size in SIZES]
    return [target * (1 + part) for target, part in zip(TARGETS, drawn, strict=True)]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [nn.Parameter(torch.full((size,), 0.1, dtype=dtype)) for size in SIZES]


@dataclass(frozen=True)
class Pattern:
    """The parameters that have a gradient in a step, and the learning rate of each parameter, which is a group.

    Attributes:
        present: The numbers of the parameters with a gradient, of the step from 0.
        lrs: The factor of the learning rate of each parameter, of the step from 0.
        steps: The number of steps.
    """

    present: Callable[[int], Sequence[int]] = lambda step: ALL
    lrs: Callable[[int], Sequence[float]] = lambda step: (1.0, 1.0, 1.0)
    steps: int = 22


PATTERNS = {
    "all": Pattern(),
    "late": Pattern(lambda step: ALL if step >= 5 else (0, 1)),
    "late, when the others have arrived": Pattern(lambda step: ALL if step >= 13 else (0, 1)),
    "frozen from the start": Pattern(lambda step: (1, 2)),
    "frozen later": Pattern(lambda step: ALL if step < 10 else (0, 2)),
    "every other step": Pattern(lambda step: ((0, 1), (1, 2))[step % 2]),
    "never together": Pattern(lambda step: (step % 3,)),
    "steps without any gradient": Pattern(lambda step: () if step in (0, 7, 8) else ALL),
    "a group at 0": Pattern(lrs=lambda step: (1.0, 0.0, 1.0)),
    "a group at 0 at first": Pattern(lrs=lambda step: (1.0, 0.0 if step < 6 else 1.0, 1.0)),
    "the highest group at 0, and resting": Pattern(
        lambda step: ALL if step % 4 else (1, 2), lrs=lambda step: (0.0, 1.0, 1.0)
    ),
    "a group at 0 for a while": Pattern(lrs=lambda step: (1.0, 0.0 if 5 <= step < 12 else 1.0, 1.0)),
    "all at 0 at first": Pattern(lrs=lambda step: (min(1.0, step / 4),) * 3),
}
SEVERAL_LRS = {
    "two learning rates": Pattern(lrs=lambda step: (0.5, 1.0, 0.5)),
    "three learning rates, one late": Pattern(lambda step: ALL if step >= 5 else (0, 1), lambda step: (0.2, 1.0, 2.0)),
    "the highest is late": Pattern(lambda step: ALL if step >= 9 else (1, 2), lambda step: (3.0, 1.0, 0.5)),
    "a schedule": Pattern(
        lambda step: ALL if step % 5 else (2,), lambda step: tuple(r * (1 - step / 50) for r in (1, 0.3, 2.0))
    ),
}
EVERY_PATTERN = PATTERNS | SEVERAL_LRS


def run(
    make: Callable[[Any], torch.optim.Optimizer],
    pattern: Pattern,
    params: list[Tensor],
    *,
    steps: range | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    units: Sequence[float] = (1.0, 1.0, 1.0),
) -> torch.optim.Optimizer:
    """Train parameters, each in a group; parameter k is in units `units[k]` times as large."""
    optimizer = optimizer or make([{"params": [param]} for param in params])
    initial = [group.setdefault("first_lr", group["lr"]) for group in optimizer.param_groups]
    for step in steps or range(pattern.steps):
        for k, (param, target) in enumerate(zip(params, targets(), strict=True)):
            optimizer.param_groups[k]["lr"] = initial[k] * pattern.lrs(step)[k]
            param.grad = None
            if k in pattern.present(step):
                whole = param.detach() * units[k] - target.to(param.dtype)
                param.grad = units[k] * (torch.tanh(whole) + 0.1 * math.sin(step + k))
        optimizer.step()
    return optimizer


PRODIGY = {"betas": (0.8, 0.97), "beta3": 0.9, "d0": 0.01, "eps": 0.1, "growth_rate": 1.5, "weight_decay": 0.05}
DADAPT = {"d0": 0.01, "growth": 1.5, "weight_decay": 0.05}
DADAPT_ADAM = {"betas": (0.8, 0.97), "eps": 0.1, **DADAPT}
MECHANIC = {"s_init": 0.5, "s_decay": 0.3}
REFERENCES: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "DAdaptAdam": (optim.DAdaptAdam, estimating.DAdaptAdam, DADAPT_ADAM, {}),
    "DAdaptSGD": (optim.DAdaptSGD, estimating.DAdaptSGD, {"momentum": 0.7, **DADAPT}, {}),
    "DoG": (optim.DoG, by_tensor.DoG, {"reps_rel": 0.01, "eps": 0.1, "weight_decay": 0.05}, {}),
    "DoWG": (optim.DoWG, estimating.DoWG, {"eps": 0.01, "weight_decay": 0.05}, {}),
    "Mechanic": (
        optim.optimizer_for(rules.Mechanic(rules.SGD(lr=0.1))),
        estimating.MechanicSGD,
        {"lr": 0.1, "momentum": 0.8, **MECHANIC},
        {"mechanic_eps": 0.2},
    ),
}


# The package moves a group that was trained before its lr became 0, by its last momentum.
@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "a group at 0 for a while"])
def test_prodigy_takes_the_steps_of_its_authors_package(pattern: str) -> None:
    ours, theirs = parameters(), parameters()
    # The package lets a group at lr = 0 decay, at the highest rate.
    settings = PRODIGY | ({"weight_decay": 0.0} if "group at 0" in pattern else {})
    run(lambda groups: optim.Prodigy(groups, **settings), PATTERNS[pattern], ours)
    run(lambda groups: prodigyopt.Prodigy(groups, **settings), PATTERNS[pattern], theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pattern", EVERY_PATTERN)
@pytest.mark.parametrize("name", REFERENCES)
def test_rules_over_the_model_take_the_steps_of_their_transcription(name: str, pattern: str) -> None:
    optimizer, reference, settings, only_ours = REFERENCES[name]
    only_theirs = {key.removeprefix("mechanic_"): value for key, value in only_ours.items()}
    ours, theirs = parameters(), parameters()
    run(lambda groups: optimizer(groups, **settings, **only_ours), EVERY_PATTERN[pattern], ours)
    run(lambda groups: reference(groups, **settings, **only_theirs), EVERY_PATTERN[pattern], theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "settings", "power"),
    [
        (optim.Prodigy, PRODIGY | {"weight_decay": 0.0}, 1.0),
        (optim.DAdaptAdam, DADAPT_ADAM | {"weight_decay": 0.0}, 1.0),
        (optim.DAdaptSGD, {"momentum": 0.7} | DADAPT | {"weight_decay": 0.0}, 0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("present", [PATTERNS["all"], PATTERNS["late"], PATTERNS["every other step"]])
def test_a_learning_rate_is_the_unit_of_the_parameters(
    optimizer: Any, settings: dict[str, Any], power: float, present: Pattern
) -> None:
    """At ρ times the highest learning rate a group trains as at the highest, in units ρ (or √ρ) times as large."""
    ratios = (0.5, 1.0, 0.2)
    units = [ratio**power for ratio in ratios]
    ends = []
    for lrs, in_units in ((ratios, (1.0, 1.0, 1.0)), ((1.0, 1.0, 1.0), units)):
        params = [(param.detach() / unit).requires_grad_() for param, unit in zip(parameters(), in_units, strict=True)]
        groups = [{"params": [param]} for param in params]
        if "eps" in settings:  # it is in the unit of the gradient
            for group, unit in zip(groups, in_units, strict=True):
                group["eps"] = settings["eps"] * unit
        running = optimizer(groups, **settings)
        run(optimizer, replace(present, lrs=lambda _, lrs=lrs: lrs), params, units=in_units, optimizer=running)
        ends.append([param.detach() * unit for param, unit in zip(params, in_units, strict=True)])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)


# --- every rule with values of the whole model ------------------------------------------------------------------------

MODEL_WIDE = {
    "Prodigy": rules.Prodigy(d0=0.01),
    "DAdaptAdam": rules.DAdaptAdam(d0=0.01),
    "DAdaptSGD": rules.DAdaptSGD(d0=0.01),
    "DoG": rules.DoG(reps_rel=0.01),
    "DoWG": rules.DoWG(eps=0.01),
    "Mechanic": rules.Mechanic(rules.AdamW(lr=0.05), s_init=0.1),
    "an average around it": rules.MovingAverage(rules.DAdaptAdam(d0=0.01), average_decay=0.8),
    "clipped": rules.Clip(rules.Prodigy(d0=0.01), max_norm=0.7),
    "restarted": rules.WarmRestarts(rules.Prodigy(d0=0.01), period=6, stretch=1),
    "split": rules.Split(rules.Prodigy(d0=0.01), row_blocks=1),
}


def shared_values(optimizer: Any) -> list[list[Tensor]]:
    """Return the values of each shared entry, of all parameters that have state."""
    rule = optimizer.rule
    keys = [tensor.key for tensor in rule.layout(torch.Size([4])).values() if tensor.shared]
    return [[record[key] for record in optimizer.state.values() if key in record] for key in keys]


@pytest.mark.parametrize("pattern", EVERY_PATTERN)
@pytest.mark.parametrize("name", MODEL_WIDE)
def test_all_parameters_hold_the_values_of_the_model_after_every_step(name: str, pattern: str) -> None:
    kind, params = optim.optimizer_for(MODEL_WIDE[name]), parameters(torch.float32)
    optimizer: Any = kind([{"params": [param]} for param in params])
    for step in range(20):
        run(kind, EVERY_PATTERN[pattern], params, steps=range(step, step + 1), optimizer=optimizer)
        for values in shared_values(optimizer):
            assert all(torch.equal(value, values[0]) for value in values)
    assert all(values for values in shared_values(optimizer))
    assert all(param.isfinite().all() for param in params)
    assert all(entry.isfinite().all() for record in optimizer.state.values() for entry in record.values())


def test_the_trait_of_shared_state_says_what_the_layout_has() -> None:
    every = [case.rule for case in rule_cases.CASES] + [case.rule for case in wrapper_cases.CASES]
    for rule in every:
        shared = any(tensor.shared for tensor in rule.layout(torch.Size([4, 4])).values())
        assert shared == rule.traits.has_shared_state, rule.name
        assert bool(rule.model_settings()) == rule.traits.has_shared_state, rule.name


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


@pytest.mark.parametrize("pattern", ["late", "a schedule"])
@pytest.mark.parametrize("name", MODEL_WIDE)
def test_kernels_take_the_steps_of_the_loop(name: str, pattern: str) -> None:
    kind, ends = optim.optimizer_for(MODEL_WIDE[name]), []
    for backend in (None, "loop"):
        params = parameters(torch.float32)
        optimizer: Any = kind([{"params": [param]} for param in params], backend=backend)
        if backend is None:
            optimizer.prepare()
        ends.append((run(kind, EVERY_PATTERN[pattern], params, optimizer=optimizer), params)[1])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_autograd_sees_late_and_resting_parameters_of_a_rule_over_the_model() -> None:
    starts, plain = parameters(), parameters()
    followed = [start.clone() for start in starts]
    optimizers = optim.Prodigy(followed, d0=0.01, differentiable=True), optim.Prodigy(plain, d0=0.01)
    for param in followed:
        param.retain_grad()
    for step in range(8):
        for k, pair in enumerate(zip(followed, plain, strict=True)):
            present = (k != 1 or step > 3) and not (k == 0 and step == 5)
            for param, graph in zip(pair, (True, False), strict=True):
                param.grad = torch.tanh((param if graph else param.detach()) - TARGETS[k]) if present else None
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close([p.detach() for p in followed], [p.detach() for p in plain], rtol=0, atol=0)
    gradient = torch.autograd.grad(followed[1].sum(), starts[2])[0]
    assert gradient.ne(0).all()  # through d, which the late parameter took over


@pytest.mark.parametrize(
    ("dtypes", "tolerance"),
    [((torch.bfloat16, torch.float32, torch.float16), 0.08), ((torch.float32, torch.float64), 1e-4)],
)
@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptSGD", "DoG", "DoWG"])
def test_groups_of_several_dtypes_share_the_values(
    name: str, dtypes: tuple[torch.dtype, ...], tolerance: float
) -> None:
    pattern = replace(SEVERAL_LRS["three learning rates, one late"], steps=10)
    mixed = [param.detach().to(dtypes[k % len(dtypes)]).requires_grad_() for k, param in enumerate(parameters())]
    kind = optim.optimizer_for(MODEL_WIDE[name])
    optimizer = run(kind, pattern, mixed)
    run(kind, pattern, exact := parameters())
    for values in shared_values(optimizer):
        assert all(math.isclose(float(value), float(values[0]), rel_tol=1e-5) for value in values)
    torch.testing.assert_close([param.double() for param in mixed], exact, rtol=tolerance, atol=5 * tolerance)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_at", [3, 8, 20])
@pytest.mark.parametrize("copies", ["state_dict", "deepcopy"])
@pytest.mark.parametrize("name", MODEL_WIDE)
def test_resuming_with_late_and_resting_parameters_changes_no_bit(name: str, copies: str, saved_at: int) -> None:
    kind = optim.optimizer_for(MODEL_WIDE[name])
    pattern = replace(SEVERAL_LRS["a schedule"], present=lambda step: ((0,), (0, 1), (1,), ALL, ())[min(4, step // 5)])
    whole = parameters(torch.float32)
    run(kind, pattern, whole, steps=range(24))
    first = parameters(torch.float32)
    optimizer = run(kind, pattern, first, steps=range(saved_at))
    if copies == "deepcopy":
        second, resumed = copy.deepcopy((first, optimizer))
    else:
        second = [param.detach().clone().requires_grad_() for param in first]
        resumed = kind([{"params": [param]} for param in second])
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(kind, pattern, second, steps=range(saved_at, 24), optimizer=resumed)
    for actual, expected in zip(second, whole, strict=True):
        assert torch.equal(actual, expected)


def test_a_checkpoint_with_several_values_continues_with_those_of_the_most_steps() -> None:
    params = parameters()
    optimizer = run(optim.Prodigy, PATTERNS["late"], params)
    saved = copy.deepcopy(optimizer.state_dict())
    expected = saved["state"][0]["d"].clone()
    saved["state"][1]["step"] -= 2
    saved["state"][1]["d"] = saved["state"][1]["d"] * 7  # as earlier versions saved them
    saved["state"][2]["d"] = torch.tensor(1e-6, dtype=torch.float64)
    loaded = optim.Prodigy([{"params": [param]} for param in params])
    loaded.load_state_dict(saved)
    assert [float(loaded.state[param]["d"]) for param in params] == [float(expected)] * 3
    assert float(saved["state"][1]["d"]) == float(expected) * 7


def test_a_checkpoint_of_an_average_without_its_count_continues() -> None:
    param = torch.ones(2, dtype=torch.float64, requires_grad=True)
    kind = optim.optimizer_for("moving_average(sgd)")
    ends = []
    for key in ("none", "model_steps"):
        param.data.fill_(1.0)
        optimizer = kind([param], lr=0.1, average_decay=0.5)
        for step in range(6):
            if step == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                saved["state"][0].pop(key, None)
                optimizer = kind([param], lr=0.1)
                optimizer.load_state_dict(saved)
            param.grad = torch.full_like(param, step)
            optimizer.step()
        ends.append(optimizer.state[param]["average"].clone())
    assert torch.equal(*ends)


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


def test_a_late_parameter_of_lbfgs_takes_the_scale_of_the_model() -> None:
    early, late = (torch.tensor([2.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer, frozen = optim.LBFGS([early, late], max_iter=1), True

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (10 * early**2).sum() + (0 if frozen else (10 * late**2).sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    frozen = False
    optimizer.step(closure)  # the Hessian is 20 times the identity, as the first pair says
    torch.testing.assert_close(late.detach(), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-12)


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
