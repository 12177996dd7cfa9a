"""Parameters that join late, rest, are frozen or have another learning rate, and the rules that look at all of them."""

import copy
import math
from dataclasses import replace
from typing import Any

import prodigyopt
import pytest
import torch
from torch import Tensor

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.references import by_tensor, estimating
from tests.optim.state.patterns import ALL, MODEL_WIDE, PATTERNS, TARGETS, Pattern, parameters, run
from thalweg import optim, rules

SEVERAL_LRS = {
    "two learning rates": Pattern(lrs=lambda step: (0.5, 1.0, 0.5)),
    "three learning rates, one late": Pattern(lambda step: ALL if step >= 5 else (0, 1), lambda step: (0.2, 1.0, 2.0)),
    "the highest is late": Pattern(lambda step: ALL if step >= 9 else (1, 2), lambda step: (3.0, 1.0, 0.5)),
    "a schedule": Pattern(
        lambda step: ALL if step % 5 else (2,), lambda step: tuple(r * (1 - step / 50) for r in (1, 0.3, 2.0))
    ),
}


EVERY_PATTERN = PATTERNS | SEVERAL_LRS


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
