"""Checkpoints, copies and pickles: what is saved goes on as if it had never stopped, in torch too."""

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cases.rules import Case
from tests.optim.training import assert_same, each_case, each_of_torchs, fresh, train
from thalweg import optim, rules
from thalweg.errors import ParameterError, SettingError, SettingWarning
from thalweg.optim.settings import keywords


@each_of_torchs
def test_groups_and_state_have_torchs_keys(case: Case) -> None:
    saved = []
    for optimizer in (
        case.optimizer(fresh(shapes=case.shapes), **case.settings),
        case.reference(fresh(shapes=case.shapes), **case.settings),
    ):
        train(optimizer, 2)
        saved.append(optimizer.state_dict())
    ours, theirs = saved
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys() - set(keywords.TORCH_ONLY)
    for index, state in theirs["state"].items():
        expected = {key for key, value in state.items() if value is not None} | {"step"}
        assert ours["state"][index].keys() == expected


@each_of_torchs
@pytest.mark.parametrize("backend", ["torch to thalweg", "thalweg to torch"])
def test_checkpoints_go_both_ways(case: Case, backend: str) -> None:
    start = fresh(torch.float64, case.shapes)
    first, second = (
        (case.reference, case.optimizer) if backend == "torch to thalweg" else (case.optimizer, case.reference)
    )
    begun = first(start, **case.settings)
    train(begun, 10)
    params = [param.detach().clone().requires_grad_() for param in start]
    resumed = second(params, **case.settings)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    train(begun, 10, skip=10)
    train(resumed, 10, skip=10)
    assert_same(params, start, rtol=max(1e-10, case.reference_error), atol=max(1e-13, case.reference_error))


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resuming_from_a_file_changes_no_bit(case: Case, dtype: torch.dtype) -> None:
    whole, halved = fresh(dtype, case.shapes), fresh(dtype, case.shapes)
    train(case.optimizer(whole, **case.settings), 20)
    begun = case.optimizer(halved, **case.settings)
    train(begun, 10)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = case.optimizer(halved, **case.settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for state in resumed.state.values():
        # torch's own loader would have cast them to the parameter's dtype (pytorch#43706).
        numbers = {"step", *case.rule.traits.recurrent_scalars}
        tensors = {key: tensor for key, tensor in state.items() if key not in numbers}
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    train(resumed, 10, skip=10)
    assert_same(halved, whole)


@each_case
def test_copies_and_pickles_continue_in_the_same_way(case: Case) -> None:
    params = fresh(shapes=case.shapes)
    optimizer = case.optimizer(params, **case.settings)
    train(optimizer, 3)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    train(optimizer, 3, skip=3)
    for copied in copies:
        train(copied, 3, skip=3)
        assert_same([param for group in copied.param_groups for param in group["params"]], params)


def test_old_checkpoints_that_count_steps_in_plain_numbers_load() -> None:
    start = fresh(torch.float64)
    begun = torch.optim.Adam(start)
    train(begun, 10)
    saved = copy.deepcopy(begun.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    params = [param.detach().clone().requires_grad_() for param in start]
    resumed = optim.Adam(params)
    resumed.load_state_dict(saved)
    train(begun, 1, skip=10)
    train(resumed, 1, skip=10)
    assert_same(params, start, rtol=1e-10, atol=1e-13)


def test_checkpoints_of_another_algorithm_are_refused() -> None:
    params = fresh()
    with pytest.raises(ParameterError, match="must be one of AdamW, got one without betas, eps, amsgrad"):
        optim.AdamW(params).load_state_dict(torch.optim.SGD(params).state_dict())
    with pytest.raises(ParameterError, match="got decoupled weight decay. Load it into AdamW"):
        optim.Adam(params).load_state_dict(torch.optim.Adam(params, decoupled_weight_decay=True).state_dict())
    with pytest.raises(ParameterError, match="must be one of Lion, got one with eps, amsgrad"):
        optim.Lion(params).load_state_dict(torch.optim.AdamW(params).state_dict())
    averaged = optim.optimizer_for(rules.MovingAverage(rules.AdamW()))
    for saving, loading in ((optim.AdamW, optim.Adam), (optim.AdamW, optim.Lion), (averaged, optim.AdamW)):
        with pytest.raises(ParameterError, match=f"must be one of {loading.rule.name}, got one of .*AdamW"):
            loading(params).load_state_dict(saving(params).state_dict())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_a_checkpoint_of_torchs_muon_loads() -> None:
    params = [torch.eye(4, requires_grad=True)]
    theirs = torch.optim.Muon(params, lr=0.05)
    train(theirs, 2)
    ours = optim.Muon(params)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.05


BROKEN = {
    "no checkpoint": (lambda saved: saved.clear(), "must hold 'param_groups' and 'state'"),
    "no record": (lambda saved: saved["state"].update({0: None}), "must be a dictionary, got NoneType"),
    "a step in words": (
        lambda saved: saved["state"][0].update(step="abc"),
        "must be a whole number of steps, got 'abc'",
    ),
    "no step": (
        lambda saved: saved["state"][0].update(step=torch.tensor(torch.nan)),
        "must be a whole number of steps",
    ),
    "another shape": (lambda saved: saved["state"][1].update(exp_avg=torch.zeros(99)), "must have shape"),
    "lr in words": (lambda saved: saved["param_groups"][0].update(lr="x"), "lr must be a number >= 0, got 'x'"),
    "lr below 0": (lambda saved: saved["param_groups"][0].update(lr=-1.0), "lr must be >= 0, got -1.0"),
    "one beta": (lambda saved: saved["param_groups"][0].update(betas=(0.9,)), "betas must hold 2 numbers"),
}


@pytest.mark.parametrize(("breaking", "message"), BROKEN.values(), ids=BROKEN)
def test_a_checkpoint_that_cannot_be_loaded_changes_nothing(breaking: Callable[[Any], None], message: str) -> None:
    params = fresh()
    optimizer = optim.Adam(params)
    train(optimizer, 3)
    before, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    breaking(saved)
    with pytest.raises((ParameterError, SettingError), match=re.escape(message)):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, record in before["state"].items():
        for key, entry in record.items():
            assert torch.equal(after["state"][index][key], entry)


def test_changes_of_a_loaded_state_by_hooks_and_subclasses_stay() -> None:
    class FromTheStart(optim.Adam):
        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            for record in self.state.values():
                record["exp_avg"].zero_()

    params = fresh(torch.bfloat16)
    optimizer = FromTheStart(params)
    train(optimizer, 3)
    seen = []

    def restart(loaded: torch.optim.Optimizer) -> None:
        for record in loaded.state.values():
            seen.append(record["exp_avg_sq"].dtype)
            record["step"] = torch.tensor(0.0)

    optimizer.register_load_state_dict_post_hook(restart)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert set(seen) == {torch.float32}
    for record in optimizer.state.values():
        assert record["step"] == 0
        assert not record["exp_avg"].any()
        assert record["exp_avg_sq"].any()


def perceptron() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers)


def with_compiled_layer() -> torch.nn.Module:
    model = perceptron()
    model[2] = torch.compile(model[2], backend="eager")
    return model


class Holder(torch.nn.Module):
    """A module that holds another one under a name, as a wrapper of torch."""

    def __init__(self, **modules: torch.nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


WRAPPED: dict[str, Callable[[], torch.nn.Module]] = {
    "compiled": lambda: torch.compile(perceptron(), backend="eager"),
    "in parallel": lambda: torch.nn.DataParallel(perceptron()),
    "compiled in parallel": lambda: torch.compile(torch.nn.DataParallel(perceptron()), backend="eager"),
    "compiled in part": with_compiled_layer,
    "in FSDP": lambda: Holder(_fsdp_wrapped_module=perceptron()),
}


def routed(model: torch.nn.Module) -> optim.RuleOptimizer:
    return optim.route(model, "muon+adamw", lr=0.05).optimizer(backend="loop")


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_a_routed_checkpoint_crosses_wrappers_of_the_model(wrapped: Callable[[], torch.nn.Module]) -> None:
    for saving, loading in ((wrapped, perceptron), (perceptron, wrapped)):
        first, second = saving(), loading()
        begun, resumed = routed(first), routed(second)
        train(begun, 2)
        with torch.no_grad():
            for param, source in zip(second.parameters(), first.parameters(), strict=True):
                param.copy_(source)
        saved = copy.deepcopy(begun.state_dict())
        assert all("_" not in name and "module" not in name for name in saved["param_groups"][0]["param_names"])
        resumed.load_state_dict(saved)
        train(begun, 2, skip=2)
        train(resumed, 2, skip=2)
        assert_same(list(second.parameters()), list(first.parameters()))


def test_names_that_only_their_wrappers_tell_apart_are_kept() -> None:
    model = Holder(layer=Holder(module=torch.nn.Linear(2, 2)), module=Holder(layer=torch.nn.Linear(2, 2)))
    plan = optim.route(model, "adamw", headless=True)
    names = [name for group in plan.optimizer().param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_old_names_with_prefixes_load_and_other_names_do_not() -> None:
    saved = routed(perceptron()).state_dict()
    for group in saved["param_groups"]:
        group["param_names"] = [f"_orig_mod.module.{name}" for name in group["param_names"]]
    optimizer = routed(perceptron())
    optimizer.load_state_dict(copy.deepcopy(saved))
    saved["param_groups"][0]["param_names"][0] = "_orig_mod.module.9.weight"
    with pytest.raises(ParameterError, match=r"one of the same routing, got _orig_mod.module.9.weight where group 0"):
        optimizer.load_state_dict(saved)


TURNED_ON = [
    (optim.AdamW, {"amsgrad": True}, "max_exp_avg_sq"),
    (optim.SGD, {"momentum": 0.9}, "momentum_buffer"),
    (optim.RMSprop, {"momentum": 0.9}, "momentum_buffer"),
    (optim.RMSprop, {"centered": True}, "grad_avg"),
]


@pytest.mark.parametrize(("kind", "settings", "key"), TURNED_ON)
def test_an_entry_of_a_setting_that_was_turned_on_after_the_last_step_starts_anew_and_it_is_said(
    kind: type[optim.RuleOptimizer], settings: dict[str, Any], key: str
) -> None:
    params = fresh()
    begun = kind(params)
    train(begun, 2)
    begun.param_groups[0].update(settings)
    saved = copy.deepcopy(begun.state_dict())
    copies = [param.detach().clone().requires_grad_() for param in params]
    resumed = kind(copies)
    with pytest.warns(SettingWarning, match=f"state\\['{key}'\\], since {next(iter(settings))} is on, got none"):
        resumed.load_state_dict(saved)
    for optimizer in (begun, resumed):
        train(optimizer, 2, skip=2)
    assert_same(copies, params)


def test_a_warning_that_is_an_error_leaves_the_optimizer_as_it_was() -> None:
    begun = optim.SGD(fresh())
    train(begun, 2)
    begun.param_groups[0]["momentum"] = 0.9
    untouched = optim.SGD(fresh())
    with pytest.raises(SettingWarning):
        untouched.load_state_dict(begun.state_dict())
    assert not untouched.state
    assert untouched.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize("num_steps", [2, 3, 5])
def test_a_switched_rule_resumes_before_and_after_the_switch(num_steps: int) -> None:
    kind = optim.optimizer_for(rules.Switched((rules.Adam(lr=0.01), rules.SGD(momentum=0.9)), switch_at=3))
    params = fresh()
    begun = kind(params)
    train(begun, num_steps)
    resting = params[0].detach().clone()
    copies = [param.detach().clone().requires_grad_() for param in params]
    resumed = kind(copies)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    for optimizer in (begun, resumed):
        train(optimizer, 4, skip=num_steps)
    assert_same(copies, params)
    assert not torch.equal(params[0], resting)


@pytest.mark.parametrize(
    ("kind", "key"), [(optim.Prodigy, "d"), (optim.ASGD, "eta"), (optim.ScheduleFreeAdamW, "weight_sum")]
)
def test_numbers_that_float32_cannot_hold_are_refused(kind: Any, key: str) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = kind([param])
    param.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert key in saved["state"][0]
    saved["state"][0][key] = 1e300
    with pytest.raises(ParameterError, match=f"state\\['{key}'\\] must be"):
        optimizer.load_state_dict(saved)
