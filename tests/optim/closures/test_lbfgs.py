"""L-BFGS with a closure, compared with torch's and with its definition. Its line search has tests of its own."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim, rules
from thalweg.comparison.contenders.parsing import parse, resolve
from thalweg.comparison.training.population_run import why_not_population
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.timing import time_of_step, time_of_update
from thalweg.errors import KeywordError, ParameterError, SettingError
from thalweg.optim.routing import route
from thalweg.optim.settings import keywords
from thalweg.rules import wrappers
from thalweg.tasks import load
from thalweg.testing import check_optimizer

Problem = tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]
WOLFE = {"line_search_fn": "strong_wolfe"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares() -> Problem:
    matrix, target = drawn(30, 8), drawn(30, seed=1)
    start = [torch.zeros(5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    return start, lambda params: (matrix @ torch.cat(params) - target).square().mean()


def rosenbrock() -> Problem:
    start = [torch.tensor([-1.2, 1.0], dtype=torch.float64)]
    return start, lambda params: (1 - params[0][0]) ** 2 + 100 * (params[0][1] - params[0][0] ** 2) ** 2


def network() -> Problem:
    inputs = drawn(64, 4)
    target = inputs.sum(1, keepdim=True).sin()
    start = [0.5 * drawn(*shape, seed=k) for k, shape in enumerate(((4, 8), (8,), (8, 1), (1,)))]

    def loss(params: list[Tensor]) -> Tensor:
        first, bias, second, shift = params
        return (torch.tanh(inputs @ first + bias) @ second + shift - target).square().mean()

    return start, loss


def bowl(scales: Tensor) -> Problem:
    return [torch.ones_like(scales)], lambda params: 0.5 * (scales * params[0] ** 2).sum()


class Training:
    """A problem, its optimizer and its closure; `evaluations` has the parameters, loss and gradient of each call."""

    def __init__(self, kind: Any, problem: Problem, *, sign: float = 1.0, **settings: Any) -> None:
        start, self.loss = problem
        self.params = [param.detach().clone().requires_grad_() for param in start]
        self.sign = sign
        self.evaluations: list[tuple[Tensor, float, Tensor]] = []
        self.optimizer = kind(self.params, **settings)

    def closure(self) -> Tensor:
        assert torch.is_grad_enabled()
        self.optimizer.zero_grad()
        loss = self.sign * self.loss(self.params)
        loss.backward()
        grads = [torch.zeros_like(param) if param.grad is None else param.grad for param in self.params]
        self.evaluations.append(
            (self.at(), float(loss.detach()), torch.cat([grad.flatten().clone() for grad in grads]))
        )
        return loss

    def at(self) -> Tensor:
        return torch.cat([param.detach().flatten().clone() for param in self.params])

    def steps(self, count: int) -> list[Tensor]:
        """Take some steps and return the parameters after each."""
        ends = []
        for _ in range(count):
            self.optimizer.step(self.closure)
            ends.append(self.at())
        return ends


SHORT: dict[str, Any] = {"history_size": 12}
SMALL: dict[str, Any] = {"max_iter": 6, "history_size": 3, "lr": 0.3}
CASES = [
    (least_squares, {}, 8),
    (least_squares, {"lr": 0.1}, 8),
    (least_squares, WOLFE, 8),
    (least_squares, SMALL, 8),
    (least_squares, SMALL | {"max_eval": 4}, 8),
    (least_squares, SMALL | WOLFE | {"max_eval": 4}, 8),
    (least_squares, {"tolerance_grad": 0.1}, 2),
    (least_squares, {"tolerance_change": 0.1}, 2),
    (rosenbrock, {"lr": 1e-3}, 8),
    (rosenbrock, WOLFE, 3),
    (rosenbrock, SMALL | WOLFE, 4),
    (rosenbrock, WOLFE | {"max_eval": 9, "max_iter": 100}, 4),
    (network, {}, 2),
    (network, SMALL, 6),
    (network, WOLFE, 2),
    (network, SMALL | WOLFE, 6),
    (network, WOLFE | {"tolerance_change": 1e-3}, 3),
]


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


# Of the 100 changes that are remembered by default most would be empty here, and each costs time.
@pytest.mark.parametrize("settings", [SHORT, SHORT | WOLFE, SMALL | WOLFE], ids=str)
@pytest.mark.parametrize("how", ["saved", "copied", "pickled"])
def test_goes_on_exactly(settings: dict[str, Any], how: str) -> None:
    training, resumed = (Training(optim.LBFGS, network(), **settings) for _ in range(2))
    training.steps(2)
    with torch.no_grad():
        for param, trained in zip(resumed.params, training.params, strict=True):
            param.copy_(trained)
    if how == "saved":
        file = io.BytesIO()
        torch.save(training.optimizer.state_dict(), file)
        file.seek(0)
        resumed.optimizer.load_state_dict(torch.load(file, weights_only=True))
    else:
        copied = copy.deepcopy(training.optimizer)
        resumed.optimizer = copied if how == "copied" else pickle.loads(pickle.dumps(training.optimizer))
        resumed.params = resumed.optimizer.param_groups[0]["params"]
    assert all(map(torch.equal, training.steps(3), resumed.steps(3)))
    fresh = Training(optim.LBFGS, (resumed.params, resumed.loss), **settings)
    assert not torch.equal(fresh.steps(1)[0], training.steps(1)[0])  # what is remembered matters


class OneIteration(optim.LBFGS):
    """One iteration a step with the gradients that the kit has set."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure or (lambda: 1.0))


class TorchsOneIteration(torch.optim.LBFGS):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure or (lambda: 1.0))


def one_iteration(params: Any) -> OneIteration:
    return OneIteration(params, lr=0.1, max_iter=1, history_size=5)


def test_the_conformance_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where other processes find `one_iteration`
    optim.LBFGS([torch.ones(1, requires_grad=True)])  # from now on torch hooks the step of this class too
    result = check_optimizer(
        one_iteration,
        reference=lambda params: TorchsOneIteration(params, lr=0.1, max_iter=1, history_size=5),
        tolerance=1e-7,  # gradients drawn at random make an inverse Hessian of a poor condition
    )
    outcomes = {finding.check: finding.outcome for finding in result.checks if finding.outcome != "passed"}
    assert outcomes == {
        "is_the_same_every_way": "skipped",  # there is one
        "trains_groups_at_their_own_rates": "refused",
        "takes_groups_with_their_own_settings": "failed",  # they are one problem, and others are refused
        "gives_a_late_parameter_a_first_step": "skipped",  # a first step depends on where the rest of the model is
        "calls_hooks": "failed",  # torch hooks the step of the class and that of the class above it
        "adds_the_gradients_of_a_closure": "refused",  # which is called repeatedly
        "steps_alike_when_sharded": "refused",
    }, str(result)


@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
def test_half_precision_learns(rounding: Any) -> None:
    start, loss = least_squares()
    halves = [param.bfloat16() for param in start]
    problem = halves, lambda params: loss([param.double() for param in params])
    training = Training(optim.LBFGS, problem, rounding=rounding, **WOLFE)
    training.steps(3)
    solution = torch.linalg.lstsq(drawn(30, 8), drawn(30, seed=1)).solution
    assert float(loss([training.at()[:5].double(), training.at()[5:].double()])) < 1.01 * float(loss([solution]))


def test_errors_say_what_to_do() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.LBFGS([param])
    with pytest.raises(
        ParameterError, match=r"^LBFGS: a step needs several losses and gradients, got no closure\. Call"
    ):
        optimizer.step()
    param.grad = torch.ones(3)
    for returned, got in ((None, "NoneType"), (torch.ones(2), r"shape \(2,\)")):
        with pytest.raises(ParameterError, match=rf"^LBFGS: the closure must return the loss, .* got {got}\. End it"):
            optimizer.step(lambda returned=returned: returned)
    param.grad = torch.ones(3).to_sparse()
    with pytest.raises(ParameterError, match="LBFGS: gradients must be dense, got a sparse one"):
        optimizer.step(lambda: 1.0)
    elsewhere = optim.LBFGS([param, torch.ones(3, device="meta", requires_grad=True)])
    with pytest.raises(ParameterError, match=r"^LBFGS: all parameters must be on one device, got cpu and meta\. Move"):
        elsewhere.step(lambda: 1.0)
    with pytest.raises(SettingError, match="LBFGS: line_search_fn must be one of fixed, strong_wolfe, got 'wolfe'"):
        optim.LBFGS([param], line_search_fn="wolfe")
    with pytest.raises(SettingError, match="LBFGS: max_iter must be >= 1, got 0"):
        optim.LBFGS([param], max_iter=0)
    with pytest.raises(KeywordError, match="LBFGS: differentiable must be False"):
        optim.LBFGS([param], differentiable=True)
    theirs = torch.optim.LBFGS([param])
    with pytest.raises(ParameterError, match="LBFGS: the checkpoint must be one of thalweg's, got one of torch's"):
        optimizer.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("name", wrappers.__all__)
def test_wrappers_refuse_it(name: str) -> None:
    kind = getattr(wrappers, name)
    with pytest.raises(SettingError, match=rf"^{name}: the inner rule must take one step at a time, got LBFGS, which"):
        kind(rules.LBFGS())
    with pytest.raises(SettingError, match="every rule must need gradients alone, got LBFGS"):
        rules.Routed((rules.LBFGS(), rules.AdamW()))


def test_torchs_keywords_are_taken() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.LBFGS([param], 0.5, 10, None, 1e-6, 1e-8, 7, None)
    assert keywords.to_rule(optimizer.rule, optimizer.param_groups[0]) == rules.LBFGS(
        lr=0.5, max_iter=10, tolerance_grad=1e-6, tolerance_change=1e-8, history_size=7
    )
    assert "loop" in str(optimizer.plan)


def test_it_competes_with_the_whole_data_in_each_look() -> None:
    task, contender = load("digits"), parse("lbfgs")
    assert contender.full_batch
    assert "closure" in str(why_not_population(task, contender, task.make_model(0)))
    run = SingleRun(task, contender, Trial({}, 0))
    before = run.evaluate("train")[0]
    run.advance([1.0] * 20)
    assert run.evaluate("train")[0] < 0.5 * before
    batches = SingleRun(task, resolve([rules.LBFGS(lr=0.1)])[0], Trial({}, 0))
    batches.step(1.0)
    assert batches.evaluate("train")[0] < before


@pytest.mark.parametrize("name", ["lbfgs", "sam(adam)"])
def test_the_pilot_times_what_needs_a_closure(name: str) -> None:
    task = load("quadratic")
    assert time_of_update(task, parse(name), 0) > 0
    assert time_of_step(SingleRun(task, parse(name), Trial({}, 0))) > 0


def test_a_plan_of_a_model_with_it_is_refused() -> None:
    with pytest.raises(SettingError):
        route(torch.nn.Linear(3, 3), "lbfgs+adamw")
