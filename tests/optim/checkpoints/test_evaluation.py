"""Checkpoints and copies of optimizers that evaluate: training continues from the values that are trained."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.optim.evaluation import (
    AVERAGING,
    STEPS,
    assert_same,
    each_average,
    make,
    make_model,
    through_a_file,
    train,
    trained,
    values_of,
)
from thalweg import optim, rules
from thalweg.errors import ParameterError
from thalweg.optim import RuleOptimizer

# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [AVERAGING[0], AVERAGING[3]], ids=lambda rule: rule.name)
@pytest.mark.parametrize("model_first", [True, False], ids=["model first", "optimizer first"])
@pytest.mark.parametrize("evaluates", [True, False], ids=["into an evaluation", "into a training"])
@pytest.mark.parametrize("saved_in", ["evaluation", "training"])
def test_a_checkpoint_of_any_mode_resumes_to_the_same_bits_in_any_mode(
    rule: rules.Rule, model_first: bool, evaluates: bool, saved_in: str
) -> None:
    model = make_model()
    optimizer = make(rule, model)
    train(optimizer, model, end=3)
    if saved_in == "evaluation":
        optimizer.eval()
    weights, saved = (
        values_of(model),
        through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()}),
    )

    resumed_model = make_model()
    resumed = make(rule, resumed_model)
    train(resumed, resumed_model, end=2)
    if evaluates:
        resumed.eval()
    for part in ("model", "optimizer") if model_first else ("optimizer", "model"):
        (resumed_model if part == "model" else resumed).load_state_dict(saved[part])
    assert all(map(torch.equal, values_of(resumed_model), weights))
    if saved_in == "evaluation":
        with pytest.raises(ParameterError, match="got those of evaluation"):
            resumed.step()
    resumed.train()
    train(resumed, resumed_model, 3)
    assert_same(resumed_model, trained(rule))


@each_average
def test_a_checkpoint_of_an_evaluation_resumes_to_the_same_bits(rule: rules.Rule) -> None:
    model = make_model()
    optimizer = make(rule, model)
    train(optimizer, model, end=3)
    optimizer.eval()
    saved = through_a_file(optimizer.state_dict())  # alone: it has the values that are trained
    resumed_model = make_model()
    resumed = make(rule, resumed_model)
    resumed.load_state_dict(saved)
    resumed.train()
    train(resumed, resumed_model, 3)
    assert_same(resumed_model, trained(rule))


def test_the_mode_is_saved_before_the_first_step() -> None:
    optimizer = make(AVERAGING[0], make_model())
    optimizer.eval()
    resumed = make(AVERAGING[0], make_model())
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    with pytest.raises(ParameterError, match="got those of evaluation"):
        resumed.step()
    assert "evaluating" not in resumed.param_groups[0]


def test_a_checkpoint_of_a_training_ends_an_evaluation_at_the_values_that_are_trained() -> None:
    """If the model is not loaded."""
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model, end=3)
    saved, values = copy.deepcopy(optimizer.state_dict()), values_of(model)
    optimizer.eval()
    optimizer.load_state_dict(saved)
    assert all(map(torch.equal, values_of(model), values))
    train(optimizer, model, 3)
    assert_same(model, trained(AVERAGING[0]))


def test_a_checkpoint_that_does_not_fit_leaves_an_evaluation_as_it_is() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model, end=3)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    average = values_of(model)
    del saved["param_groups"][0]["params"][-1]
    with pytest.raises(ParameterError, match="must have 4 parameters as the group of the optimizer, got 3"):
        optimizer.load_state_dict(saved)
    assert all(map(torch.equal, values_of(model), average))
    optimizer.train()
    train(optimizer, model, 3)
    assert_same(model, trained(AVERAGING[0]))


def test_a_checkpoint_stays_whole_when_training_goes_on() -> None:
    """It holds references, as torch's do, so it is saved before the next step; but `train` takes nothing from it."""
    model = make_model()
    optimizer = make(AVERAGING[3], model)
    train(optimizer, model, end=3)
    optimizer.eval()
    saved = optimizer.state_dict()
    optimizer.train()
    saved = copy.deepcopy(saved)
    train(optimizer, model, 3)
    again = make_model()
    resumed = make(AVERAGING[3], again)
    resumed.load_state_dict(saved)
    resumed.train()
    train(resumed, again, 3)
    assert_same(again, model)


def test_a_checkpoint_of_an_evaluation_without_the_trained_values_is_refused() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model)
    optimizer.eval()
    saved = copy.deepcopy(optimizer.state_dict())
    for record in saved["state"].values():
        del record["train_param"]
    optimizer.train()
    before = values_of(model)
    with pytest.raises(ParameterError, match="between eval.* must hold 'train_param' for each parameter.* call eval"):
        optimizer.load_state_dict(saved)
    for record in saved["state"].values():
        record["train_param"] = torch.zeros(7)
    with pytest.raises(ParameterError, match="'train_param'. must have shape"):
        optimizer.load_state_dict(saved)
    assert all(map(torch.equal, values_of(model), before))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("evaluates", [True, False])
def test_distributed_checkpoints_read_into_an_optimizer_that_evaluates(evaluates: bool, tmp_path: Any) -> None:
    from torch.distributed.checkpoint import load, save
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    rule = AVERAGING[0]
    model = make_model()
    optimizer = make(rule, model)
    train(optimizer, model, end=3)
    optimizer.eval()
    save(get_optimizer_state_dict(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    resumed_model = make_model()
    resumed = make(rule, resumed_model)
    state = get_optimizer_state_dict(resumed_model, resumed)  # takes a step without effect, to make the entries
    if evaluates:
        resumed.eval()
        state = get_optimizer_state_dict(resumed_model, resumed)
    load(state, checkpoint_id=tmp_path, no_dist=True)
    if not evaluates:
        with pytest.raises(ParameterError, match="must hold 'train_param'"):
            set_optimizer_state_dict(resumed_model, resumed, state)
        return
    set_optimizer_state_dict(resumed_model, resumed, state)
    resumed.train()
    train(resumed, resumed_model, 3)
    assert_same(resumed_model, trained(rule))


@pytest.mark.parametrize("rule", [AVERAGING[0], AVERAGING[6]], ids=lambda rule: rule.name)
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_copies_of_an_evaluation_go_on_alike(rule: rules.Rule, duplicate: Callable[[Any], Any]) -> None:
    model = make_model()
    optimizer = make(rule, model)
    train(optimizer, model, end=3)
    optimizer.eval()
    copied_model, copied = duplicate((model, optimizer))
    assert_same(copied_model, model)
    with pytest.raises(ParameterError, match="got those of evaluation"):
        copied.step()
    copied.train()
    train(copied, copied_model, 3)
    assert_same(copied_model, trained(rule))
    assert not any(map(torch.equal, values_of(copied_model), values_of(model)))


def test_a_checkpoint_of_a_rounding_that_keeps_residuals_resumes_to_the_same_bits() -> None:
    def run(first: int, end: int, saved: dict[str, Any] | None = None) -> tuple[nn.Module, RuleOptimizer]:
        model = make_model(torch.bfloat16)
        optimizer = make(AVERAGING[0], model, rounding="kahan")
        if saved:
            optimizer.load_state_dict(saved)
            optimizer.train()
        train(optimizer, model, first, end)
        return model, optimizer

    _, optimizer = run(0, 3)
    optimizer.eval()
    resumed, _ = run(3, STEPS, optimizer.state_dict())
    assert_same(resumed, run(0, STEPS)[0])


def test_torchs_asgd_loads_our_checkpoint_of_an_evaluation() -> None:
    model = make_model()
    optimizer = optim.ASGD(model.parameters(), lr=0.1, t0=1, backend="loop")
    train(optimizer, model, end=3)
    optimizer.eval()
    theirs = torch.optim.ASGD(model.parameters(), lr=0.5)
    theirs.load_state_dict(optimizer.state_dict())
    theirs.step()


def test_a_checkpoint_that_hides_its_evaluation_is_refused() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model, end=3)
    optimizer.eval()
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["evaluating"]
    with pytest.raises(ParameterError, match="must say 'evaluating', got 'train_param' in its state"):
        make(AVERAGING[0], make_model()).load_state_dict(saved)


def test_a_key_of_the_users_own_is_no_mode_of_other_rules() -> None:
    def adamw() -> RuleOptimizer:
        return optim.AdamW([{"params": [torch.ones(2, requires_grad=True)], "evaluating": True}])

    optimizer = adamw()
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    resumed = adamw()
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["evaluating"] is True
