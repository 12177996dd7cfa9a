"""Checkpoints, copies and pickles: what is saved goes on as if it had never stopped, in torch too."""

import copy
import io
import pickle

import pytest
import torch

from tests.cases import Case
from tests.optim.training import assert_same, each_case, each_of_torchs, fresh, train
from thalweg import optim
from thalweg.errors import ParameterError
from thalweg.optim import keywords


@each_of_torchs
def test_groups_and_state_have_torchs_keys(case: Case) -> None:
    saved = []
    for optimizer in (
        case.ours(fresh(shapes=case.shapes), **case.settings),
        case.theirs(fresh(shapes=case.shapes), **case.settings),
    ):
        train(optimizer, 2)
        saved.append(optimizer.state_dict())
    ours, theirs = saved
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys() - set(keywords.TORCH_ONLY)
    for index, state in theirs["state"].items():
        expected = {key for key, value in state.items() if value is not None} | {"step"}
        assert ours["state"][index].keys() == expected


@each_of_torchs
@pytest.mark.parametrize("way", ["torch to thalweg", "thalweg to torch"])
def test_checkpoints_go_both_ways(case: Case, way: str) -> None:
    start = fresh(torch.float64, case.shapes)
    first, second = (case.theirs, case.ours) if way == "torch to thalweg" else (case.ours, case.theirs)
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
    train(case.ours(whole, **case.settings), 20)
    begun = case.ours(halved, **case.settings)
    train(begun, 10)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = case.ours(halved, **case.settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for state in resumed.state.values():
        # torch's own loader would have cast them to the parameter's dtype (pytorch#43706).
        own = {key: tensor for key, tensor in state.items() if key not in case.rule.carried}
        assert all(tensor.dtype == torch.float32 for tensor in own.values())
    train(resumed, 10, skip=10)
    assert_same(halved, whole)


@each_case
def test_copies_and_pickles_go_on_alike(case: Case) -> None:
    params = fresh(shapes=case.shapes)
    optimizer = case.ours(params, **case.settings)
    train(optimizer, 3)
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    train(optimizer, 3, skip=3)
    for other in others:
        train(other, 3, skip=3)
        assert_same([param for group in other.param_groups for param in group["params"]], params)


def test_old_checkpoints_that_count_steps_in_plain_numbers_load() -> None:
    start = fresh(torch.float64)
    begun = torch.optim.Adam(start)
    train(begun, 10)
    saved = copy.deepcopy(begun.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
        state["note"] = "kept"
    params = [param.detach().clone().requires_grad_() for param in start]
    resumed = optim.Adam(params)
    resumed.load_state_dict(saved)
    assert resumed.state_dict()["state"][0]["note"] == "kept"
    train(begun, 1, skip=10)
    train(resumed, 1, skip=10)
    assert_same(params, start, rtol=1e-10, atol=1e-13)


def test_checkpoints_of_another_algorithm_are_refused() -> None:
    params = fresh()
    with pytest.raises(ParameterError, match="must be one of AdamW, got one without betas, eps, amsgrad"):
        optim.AdamW(params).load_state_dict(torch.optim.SGD(params).state_dict())
    with pytest.raises(ParameterError, match="got decoupled weight decay. Load it into AdamW"):
        optim.Adam(params).load_state_dict(torch.optim.Adam(params, decoupled_weight_decay=True).state_dict())
