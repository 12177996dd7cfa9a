"""The interface of L-BFGS: keywords, errors, checkpoints, the conformance kit, and its place in comparisons."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.closure_problems import SMALL, WOLFE, Training, drawn, least_squares, network, one_iteration
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

SHORT: dict[str, Any] = {"history_size": 12}


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


class TorchsOneIteration(torch.optim.LBFGS):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure or (lambda: 1.0))


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
