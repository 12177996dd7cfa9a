"""Evaluation: `eval` and `train` in any order, and changes of the model between them."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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
from thalweg import rules
from thalweg.errors import ParameterError
from thalweg.optim import optimizer_for

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
