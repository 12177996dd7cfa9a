"""L-BFGS with a closure, compared with torch's and with its definition. Its line search has tests of its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.closure_problems import CASES, SMALL, WOLFE, Problem, Training, drawn, least_squares, network, rosenbrock
from thalweg import optim, rules
from thalweg.errors import SettingError
from thalweg.optim.settings import keywords


def bowl(scales: Tensor) -> Problem:
    return [torch.ones_like(scales)], lambda params: 0.5 * (scales * params[0] ** 2).sum()


@pytest.mark.parametrize(
    ("problem", "settings", "count"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_goes_where_torchs_goes(problem: Callable[[], Problem], settings: dict[str, Any], count: int) -> None:
    ours, theirs = (Training(kind, problem(), **settings) for kind in (optim.LBFGS, torch.optim.LBFGS))
    for actual, expected in zip(ours.steps(count), theirs.steps(count), strict=True):
        assert (
            float((actual - expected).norm() / expected.norm()) <= 1e-8
        )  # rounding, by whatever order of sums, is magnified by the inverse Hessian
    assert len(ours.evaluations) == len(theirs.evaluations)


def test_every_setting_changes_where_it_goes() -> None:
    """The changes are far larger than the tolerance of the comparison with torch."""
    base = SMALL | {"lr": 0.5, "max_eval": 5, "tolerance_grad": 1e-3, "tolerance_change": 1e-3}
    ends = Training(optim.LBFGS, network(), **base).steps(4)[-1]
    others = {"lr": 0.4, "max_iter": 3, "max_eval": 3, "tolerance_grad": 1.0, "tolerance_change": 1.0}
    for changed in ({key: value} for key, value in (others | {"history_size": 1} | WOLFE).items()):
        moved = Training(optim.LBFGS, network(), **base | changed).steps(4)[-1]
        assert float((moved - ends).norm()) > 1e-6, changed
    assert base.keys() | WOLFE.keys() == keywords.members(rules.LBFGS()).keys()


@pytest.mark.parametrize("settings", [{}, WOLFE], ids=str)
def test_complex_parameters_as_torchs(settings: dict[str, Any]) -> None:
    start = torch.complex(drawn(6), drawn(6, seed=1))
    problem = [start], lambda params: (params[0].abs() ** 2 * torch.arange(1, 7)).sum() + (params[0] ** 2).real.sum()
    ours, theirs = (Training(kind, problem, lr=0.5, **settings) for kind in (optim.LBFGS, torch.optim.LBFGS))
    for actual, expected in zip(ours.steps(3), theirs.steps(3), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_returns_the_first_loss_as_the_closure_returned_it() -> None:
    training = Training(optim.LBFGS, least_squares())
    loss = training.optimizer.step(training.closure)
    assert isinstance(loss, Tensor)
    assert float(loss.detach()) == training.evaluations[0][1]
    assert len(training.evaluations) > 5


def test_a_closure_may_return_a_number_and_zero_gradients_in_place() -> None:
    training, plain = (Training(optim.LBFGS, network(), **WOLFE) for _ in range(2))

    def closure() -> float:
        training.optimizer.zero_grad(set_to_none=False)
        loss = training.loss(training.params)
        loss.backward()
        return loss.item()

    for end in plain.steps(3):
        assert isinstance(training.optimizer.step(closure), float)
        assert torch.equal(training.at(), end)


def test_rosenbrock_is_solved() -> None:
    training = Training(optim.LBFGS, rosenbrock(), tolerance_change=1e-14, max_iter=100, **WOLFE)
    end = training.steps(1)[0]
    assert float((end - 1).abs().max()) < 1e-8
    assert len(training.evaluations) < 60


def test_a_quadratic_takes_about_as_many_iterations_as_it_has_dimensions() -> None:
    for num in (4, 8, 16):
        scales = torch.linspace(1, 10, num, dtype=torch.float64)
        training = Training(optim.LBFGS, bowl(scales), tolerance_grad=1e-6, tolerance_change=0.0, max_iter=200, **WOLFE)
        training.steps(1)
        assert training.at().abs().max() < 1e-6
        assert int(training.optimizer.state[training.params[0]]["step"]) <= 1.5 * num + 6


@pytest.mark.parametrize("problem", [least_squares, rosenbrock, network])
@pytest.mark.parametrize("lr", [0.01, 1.0, 30.0])
def test_strong_wolfe_conditions_hold_after_each_iteration(problem: Callable[[], Problem], lr: float) -> None:
    training = Training(optim.LBFGS, problem(), lr=lr, max_iter=1, max_eval=30, tolerance_change=0.0, **WOLFE)
    for _ in range(12):
        training.evaluations.clear()
        training.steps(1)
        start, loss, grad = training.evaluations[0]
        if grad.abs().max() < 1e-5:
            break
        (end, new_loss, new_grad), *_ = [
            evaluation for evaluation in training.evaluations if torch.equal(evaluation[0], training.at())
        ]
        slope = float(grad @ (end - start))
        assert slope < 0
        assert new_loss <= loss + 1e-4 * slope
        assert abs(float(new_grad @ (end - start))) <= 0.9 * -slope * (1 + 1e-9)


@pytest.mark.parametrize("settings", [{}, WOLFE], ids=str)
def test_groups_are_one_problem(settings: dict[str, Any]) -> None:
    whole = Training(optim.LBFGS, network(), **settings)
    parted = Training(
        lambda params, **settings: optim.LBFGS([{"params": params[:1]}, {"params": params[1:]}], **settings),
        network(),
        **settings,
    )
    for actual, expected in zip(whole.steps(2), parted.steps(2), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("name", "value", "was"), [("max_iter", 3, 20), ("lr", 0.0, 1.0), ("maximize", True, False)])
def test_groups_that_ask_for_different_iterations_are_refused(name: str, value: Any, was: Any) -> None:
    params = [torch.ones(2, requires_grad=True) for _ in range(2)]
    message = rf"^LBFGS: all groups must have the same {name}, got {was} and {value}\. Put"
    with pytest.raises(SettingError, match=message):
        optim.LBFGS([{"params": params[:1]}, {"params": params[1:], name: value}])
    optimizer = optim.LBFGS([{"params": params[:1]}, {"params": params[1:]}])
    optimizer.param_groups[1][name] = value
    with pytest.raises(SettingError, match=message):
        optimizer.step(lambda: 1.0)


@pytest.mark.parametrize("settings", [{}, WOLFE], ids=str)
def test_maximizing_is_minimizing_the_negative(settings: dict[str, Any]) -> None:
    down = Training(optim.LBFGS, network(), **settings)
    up = Training(optim.LBFGS, network(), sign=-1.0, maximize=True, **settings)
    assert all(map(torch.equal, down.steps(3), up.steps(3)))


@pytest.mark.parametrize("settings", [{}, WOLFE], ids=str)
def test_a_parameter_without_a_gradient_rests_and_may_come_late(settings: dict[str, Any]) -> None:
    start, loss = least_squares()
    training = Training(optim.LBFGS, (start, lambda params: loss([params[0], params[1].detach()])), **settings)
    alone = Training(optim.LBFGS, (start[:1], lambda params: loss([params[0], start[1]])), **settings)
    for end, expected in zip(training.steps(2), alone.steps(2), strict=True):
        assert torch.equal(end[:5], expected)
        assert torch.equal(end[5:], start[1])
    assert training.params[1] not in training.optimizer.state
    training.loss = loss
    training.steps(4)
    training.loss = lambda params: loss([params[0], params[1].detach()])
    rested = training.at()[5:]
    assert torch.equal(training.steps(1)[0][5:], rested)
    training.loss = loss
    solution = torch.linalg.lstsq(drawn(30, 8), drawn(30, seed=1)).solution
    torch.testing.assert_close(training.steps(4)[-1], solution, rtol=0, atol=1e-3)


def walled() -> Problem:
    """Return a loss that is not a number beyond a wall, near the optimum."""
    return [torch.full((3,), 4.0, dtype=torch.float64)], lambda params: (params[0] - params[0].log()).sum()


@pytest.mark.parametrize("lr", [1.0, 100.0])
def test_a_loss_that_is_not_a_number_is_never_stepped_to(lr: float) -> None:
    training = Training(optim.LBFGS, walled(), lr=lr, **WOLFE)
    end = training.steps(4)[-1]
    torch.testing.assert_close(end, torch.ones_like(end), rtol=0, atol=1e-4)
    if lr == 100.0:
        assert any(loss != loss for _, loss, _ in training.evaluations)
        theirs = Training(torch.optim.LBFGS, walled(), lr=lr, **WOLFE)
        assert not (theirs.steps(4)[-1] > 0).any()


def test_a_fixed_step_to_where_the_loss_is_not_a_number_is_taken_back() -> None:
    training = Training(optim.LBFGS, walled(), lr=100.0)
    assert torch.equal(training.steps(1)[0], walled()[0][0])
    param = torch.ones(2, requires_grad=True)
    optimizer = optim.LBFGS([param])
    param.grad = torch.full((2,), torch.nan)
    assert optimizer.step(lambda: 2.0) == 2.0
    assert torch.equal(param.detach(), torch.ones(2))


def test_a_closure_that_fails_leaves_nothing_moved() -> None:
    training = Training(optim.LBFGS, network(), **WOLFE)

    def closure() -> Tensor:
        if len(training.evaluations) == 2:
            raise KeyError
        return training.closure()

    with pytest.raises(KeyError):
        training.optimizer.step(closure)
    assert torch.equal(training.at(), training.evaluations[1][0])  # where the first iteration went
    training.steps(3)
    assert training.evaluations[-1][1] < 0.2 * training.evaluations[0][1]
