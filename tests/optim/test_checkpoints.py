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
from thalweg.errors import ParameterError, SettingError
from thalweg.optim import keywords


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
