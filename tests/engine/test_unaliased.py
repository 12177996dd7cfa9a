"""Rules that return an input as a part of their result: it is written after it was read, by every backend."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.engine.core.batch import unaliased
from thalweg.engine.core.program import Program
from thalweg.engine.eager.loop import TensorStep
from thalweg.engine.population import PopulationStepper
from thalweg.engine.search_line import SearchLine, SeparateTensors
from thalweg.rules import Rule, like_param, record
from thalweg.rules.core.hyper import Scalar, learning_rate


def history() -> type[Rule]:
    @dataclass(frozen=True, kw_only=True)
    class History(Rule, scope="elementwise"):
        """Gradient descent that remembers the last two gradients, and the last two parameters."""

        lr: Scalar = learning_rate(0.5)

        class State:
            # In an order in which each is written before the next is read.
            newest = like_param(unit="g", key="newest")
            before = like_param(unit="g", key="before")
            param = like_param(unit="θ", key="param")
            param_before = like_param(unit="θ", key="param_before")

        def coefficients(self, step: int) -> Any:
            return record(lr=self.lr)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return grad, state._replace(newest=grad, before=state.newest)

        def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
            return param - c.lr * direction, state._replace(param=param, param_before=state.param)

    return History


GRADS = (1.0, 4.0, 16.0)
EXPECTED = {"newest": 16.0, "before": 4.0, "param": 100.0 - 2.5, "param_before": 100.0 - 0.5}


def assert_expected(param: Tensor, state: Any) -> None:
    assert float(param.detach().flatten()[0]) == 100.0 - 0.5 * sum(GRADS)
    assert {name: float(state[name].flatten()[0]) for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("backend", ["loop", "flat", "compiled", None])
@pytest.mark.parametrize("num_params", [1, 3])
def test_what_is_remembered_is_of_the_step_before_by_every_backend(backend: Any, num_params: int) -> None:
    params = [torch.full((5,), 100.0, requires_grad=True) for _ in range(num_params)]
    optimizer = optim.optimizer_for(history())(params, backend=backend)
    for value in GRADS:
        for param in params:
            param.grad = torch.full((5,), value)
        optimizer.step()
    for param in params:
        assert_expected(param, optimizer.state[param])


def test_what_is_remembered_is_of_the_step_before_in_a_population() -> None:
    rule = history()()
    stacks = {"a": torch.full((2, 5), 100.0)}
    stepper = PopulationStepper([rule, rule], stacks)
    for count, value in enumerate(GRADS, 1):
        stepper.step([rule, rule], {"a": torch.full((2, 5), value)}, count)
    assert_expected(stacks["a"], stepper.state["a"]._asdict())


def test_what_is_remembered_is_of_the_step_before_along_a_line() -> None:
    program = Program(history()())
    param = torch.full((5,), 100.0)
    state = program.init(param)
    for count, value in enumerate(GRADS, 1):
        item = TensorStep(program, param, torch.full((5,), value), state, program.coefficients(count))
        line = SearchLine([item._replace(param=param.clone())], SeparateTensors([item]))
        line.move_to(3.0)
        line.commit(1.0)
    assert_expected(param, state._asdict())


def test_only_what_would_be_written_too_soon_is_copied() -> None:
    first, second, new = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    kept, other = unaliased([first, new], [first, second])
    assert kept is first
    assert other is new
    swapped = unaliased([second, first], [first, second])
    assert [float(tensor) for tensor in swapped] == [1.0, 0.0]
    assert swapped[0] is not second
    assert swapped[1] is not first
