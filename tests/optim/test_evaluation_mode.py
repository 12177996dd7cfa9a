"""Evaluation: `eval` and `train` in any order, and checkpoints, copies and changes of the model between them."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg import optim, rules
from thalweg.errors import ParameterError
from thalweg.optim import RuleOptimizer, optimizer_for

# Each kind of rule that evaluates the model elsewhere, alone and in a nest, with an average that lags behind.
AVERAGING = [
    rules.ScheduleFreeAdamW(lr=0.1, warmup_steps=2),
    rules.ScheduleFreeSGD(lr=0.3, weight_decay=0.1),
    rules.ASGD(lr=0.1, t0=1),
    rules.MovingAverage(rules.AdamW(lr=0.1), average_decay=0.5),
    rules.PolyakAverage(rules.SGD(lr=0.1)),
    rules.Lookahead(rules.SGD(lr=0.1), every=4),
    rules.Clip(rules.MovingAverage(rules.Prodigy(d0=1e-2), average_decay=0.5)),
    rules.MovingAverage(rules.Mechanic(rules.SGD(lr=1.0), s_init=0.1), average_decay=0.5),
]
each_average = pytest.mark.parametrize("rule", AVERAGING, ids=lambda rule: rule.name)
STEPS = 6


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def make(rule: rules.Rule, model: nn.Module, **settings: Any) -> RuleOptimizer:
    return optimizer_for(rule)(model.parameters(), backend="loop", **settings)


def train(optimizer: RuleOptimizer, model: nn.Module, first: int = 0, end: int = STEPS) -> None:
    for step in range(first, end):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(5, 4, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def values_of(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    assert all(map(torch.equal, values_of(model), values_of(expected)))


def trained(rule: rules.Rule, **settings: Any) -> nn.Module:
    """Return a model after all steps, without evaluations."""
    model = make_model()
    train(make(rule, model, **settings), model)
    return model


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- order ------------------------------------------------------------------------------------------------------------


@each_average
def test_any_order_and_number_of_calls_changes_no_bit(rule: rules.Rule) -> None:
    """Before the first step, too. The values for evaluation are the same at each call."""
    model = make_model()
    optimizer = make(rule, model)
    orders = [
        order for length in (1, 2, 3) for order in itertools.product((optimizer.eval, optimizer.train), repeat=length)
    ]
    points: list[list[Tensor]] = []

    def call_all() -> None:
        points.clear()
        for order in orders:
            for method in order:
                method()
                if method == optimizer.eval:
                    points.append(values_of(model))
            optimizer.train()

    call_all()
    assert all(map(torch.equal, points[0], values_of(model)))
    for step in range(STEPS):
        train(optimizer, model, step, step + 1)
        call_all()
        assert all(all(map(torch.equal, point, points[0])) for point in points)
    assert not any(map(torch.equal, points[0], values_of(model)))
    assert_same(model, trained(rule))


def test_nested_evaluations_end_with_the_outermost() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model)
    values = values_of(model)
    with optimizer.evaluating():
        average = values_of(model)
        with optimizer.evaluating():
            assert all(map(torch.equal, values_of(model), average))
        assert all(map(torch.equal, values_of(model), average))
    assert all(map(torch.equal, values_of(model), values))
    optimizer.eval()
    with optimizer.evaluating():
        pass
    assert all(map(torch.equal, values_of(model), average))


@pytest.mark.parametrize("steps", [0, 2])
def test_a_step_in_an_evaluation_is_refused(steps: int) -> None:
    model = make_model()
    optimizer = make(AVERAGING[3], model)
    train(optimizer, model, end=steps)
    optimizer.eval()
    with pytest.raises(
        ParameterError, match=r"those of training to take a step, got those of evaluation\. Call optimizer.train"
    ):
        optimizer.step()
    optimizer.train()
    optimizer.step()


def test_curvature_is_estimated_where_the_model_is_trained() -> None:
    model = make_model()
    optimizer = make(rules.MovingAverage(rules.Sophia(lr=0.1)), model)
    optimizer.eval()
    with pytest.raises(ParameterError, match="those of training to estimate the curvature, got those of evaluation"):
        optimizer.estimate_curvature(model(torch.ones(1, 4)).square().mean())


def test_optimizers_without_values_for_evaluation_step_in_any_mode() -> None:
    model = make_model()
    optimizer = make(rules.AdamW(lr=0.1), model)
    optimizer.eval()
    train(optimizer, model)
    optimizer.eval()
    assert_same(model, trained(rules.AdamW(lr=0.1)))


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


# --- changes of the model in an evaluation ----------------------------------------------------------------------------


def replace_data(model: nn.Module) -> None:
    for param in model.parameters():
        param.data = param.data.clone()


def write_the_same(model: nn.Module) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def move_and_return(model: nn.Module) -> None:
    model.to(torch.float64).to(torch.float32)


@each_average
@pytest.mark.parametrize("change", [replace_data, write_the_same, move_and_return])
def test_changes_that_keep_the_values_are_no_errors(rule: rules.Rule, change: Callable[[nn.Module], None]) -> None:
    model = make_model()
    optimizer = make(rule, model)
    train(optimizer, model, end=3)
    optimizer.eval()
    change(model)
    optimizer.train()
    train(optimizer, model, 3)
    assert_same(model, trained(rule))


def test_a_model_may_move_to_another_dtype_in_an_evaluation() -> None:
    rule = AVERAGING[3]
    model, expected = make_model(), make_model()
    optimizer, direct = make(rule, model), make(rule, expected)
    for moved, trainer in ((model, optimizer), (expected, direct)):
        train(trainer, moved, end=3)
        if moved is model:
            trainer.eval()
        moved.to(torch.float64)
        trainer.train()
        train(trainer, moved, 3)
    assert_same(model, expected)
    assert model[0].weight.dtype == torch.float64


def test_other_values_that_were_written_are_an_error_once() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model, end=3)
    values = values_of(model)
    optimizer.eval()
    average = values_of(model)
    with torch.no_grad():
        model[0].bias[0] += 1e-6
    with pytest.raises(ParameterError, match=r"must not be changed between eval\(\) and train\(\)"):
        optimizer.train()
    assert [torch.equal(*pair) for pair in zip(values_of(model), average, strict=True)] == [True, False, True, True]
    optimizer.train()
    assert all(map(torch.equal, values_of(model), values))


def test_values_that_are_not_finite_are_given_back() -> None:
    param = torch.ones(3)
    optimizer = optimizer_for(rules.MovingAverage(rules.SGD(lr=1.0)))([param], backend="loop")
    param.grad = torch.tensor([torch.nan, torch.inf, 1.0])
    optimizer.step()
    optimizer.eval()
    param.copy_(param.clone())
    optimizer.train()
    assert (
        torch.equal(
            param,
            torch.tensor([torch.nan, -torch.inf, 0.0]),
        )
        or param[2] == 0.0
    )


def test_a_parameter_of_another_shape_is_refused() -> None:
    model = make_model()
    optimizer = make(AVERAGING[0], model)
    train(optimizer, model)
    optimizer.eval()
    average = values_of(model)
    model[0].bias.data = torch.zeros(5)
    with pytest.raises(ParameterError, match=r"must keep their shapes .* got \(5,\) in place of \(3,\)"):
        optimizer.train()
    assert torch.equal(model[0].weight, average[0])


def test_a_group_that_joins_in_an_evaluation_trains_afterwards() -> None:
    def run(*, evaluates: bool) -> nn.Module:
        model, late = make_model(), nn.Linear(4, 2)
        torch.nn.init.ones_(late.weight)
        torch.nn.init.ones_(late.bias)
        both = nn.Sequential(model, nn.Identity(), late)
        optimizer = make(AVERAGING[3], model)
        train(optimizer, model, end=3)
        if evaluates:
            optimizer.eval()
        optimizer.add_param_group({"params": list(late.parameters()), "lr": 0.01})
        if evaluates:
            optimizer.eval()
            optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
        optimizer.train()
        for _ in range(3):
            optimizer.zero_grad()
            (model(torch.ones(2, 4)) + late(torch.ones(2, 4))).square().mean().backward()
            optimizer.step()
        optimizer.eval()
        optimizer.train()
        return both

    assert_same(run(evaluates=True), run(evaluates=False))


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
