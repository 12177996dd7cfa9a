"""One loop with a closure serves all contenders; a loop without one is refused with its line, before any training."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.comparison.contenders.parsing import parse, resolve
from thalweg.comparison.training.functions.function_workload import FunctionWorkload
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import run_function
from thalweg.errors import TaskError
from thalweg.tasks import TrainingFunction


class WithoutClosure(torch.optim.SGD):
    """An optimizer of a library whose steps take no closure."""

    def step(self) -> None:  # type: ignore[override]
        super().step()


class Loop:
    """A training function with a closure; it counts evaluations, and the losses that steps return."""

    def __init__(self, *, with_scheduler: bool = False) -> None:
        self.evaluations, self.losses = 0, list[float]()
        self.with_scheduler = with_scheduler

    def __call__(self, make_optimizer: Any, report: Any) -> None:
        inputs = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
        target = inputs.sum(1, keepdim=True).sin()
        model = nn.Linear(3, 1)
        optimizer = make_optimizer(model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40) if self.with_scheduler else None
        self.evaluations, self.losses = 0, []

        def closure() -> torch.Tensor:
            self.evaluations += 1
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), target)
            loss.backward()
            return loss

        for step in range(40):
            self.losses.append(optimizer.step(closure).item())
            if schedule is not None:
                schedule.step()
            if step % 10 == 9:
                report(nn.functional.mse_loss(model(inputs), target).item())


EVALUATIONS = {
    "adam": (40, 40),
    "torch.optim:NAdam": (40, 40),
    "without": (40, 40),
    "sam(adam)": (80, 80),  # two gradients a step, as its authors count
    "lbfgs:max_iter=4,tolerance_change=0,tolerance_grad=0": (40, 45),
    "then(adam,lbfgs):switch_at=20,lbfgs_max_iter=4": (40, 45),
}


@pytest.mark.parametrize("with_scheduler", [False, True])
@pytest.mark.parametrize("name", EVALUATIONS)
def test_one_loop_serves_all_contenders(name: str, *, with_scheduler: bool) -> None:
    (contender,) = resolve([WithoutClosure if name == "without" else name])
    loop = Loop(with_scheduler=with_scheduler)
    function = TrainingFunction(train=loop, name="loop")
    FunctionWorkload(function).training_schedule(contender, "constant")
    result = run_function(function, contender, Trial({} if name.startswith("lbfgs") else {"lr": 0.05}, 0))
    low, high = EVALUATIONS[name]
    assert low <= loop.evaluations <= high
    assert result.status == "ok"
    assert len(loop.losses) == 40
    assert loop.losses[-1] < 0.9 * loop.losses[0]


def test_steps_that_were_done_already_return_the_last_loss() -> None:
    loop = Loop()
    run_function(TrainingFunction(train=loop, name="loop"), parse("lbfgs:max_iter=4"), Trial({}, 0))
    repeated = [first == second for first, second in zip(loop.losses, loop.losses[1:], strict=False)]
    assert sum(repeated) > 20


def without_closure(make_optimizer: Any, report: Any) -> None:
    model = nn.Linear(3, 1)
    optimizer = make_optimizer(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    report(1.0)


def with_perturbation(make_optimizer: Any, report: Any) -> None:
    model = nn.Linear(3, 1)
    optimizer = make_optimizer(model)
    model(torch.ones(1, 3)).sum().backward()
    with optimizer.perturbed():
        model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    report(1.0)


@pytest.mark.parametrize(
    ("name", "gradients"), [("lbfgs", "several"), ("then(adam,lbfgs)", "several"), ("sam(adam)", "two")]
)
def test_a_loop_without_a_closure_is_refused_with_its_line(name: str, gradients: str) -> None:
    workload = FunctionWorkload(TrainingFunction(train=without_closure, name="mine"))
    lines, first = inspect.getsourcelines(without_closure)
    number = first + next(k for k, line in enumerate(lines) if "optimizer.step()" in line)
    with pytest.raises(TaskError) as error:
        workload.training_schedule(parse(name), "constant")
    assert str(error.value).startswith(
        f"mine: the step must get a closure, since {name} needs {gradients} gradients a step, got step() without one "
        f"(at {__file__}:{number}). Write def closure(): "
    )
    assert str(error.value).endswith(f"or leave {name} out.")
    workload.training_schedule(parse("adam"), "constant")


def test_second_gradients_need_no_closure() -> None:
    workload = FunctionWorkload(TrainingFunction(train=with_perturbation, name="mine"))
    workload.training_schedule(parse("sam(adam)"), "constant")


def test_a_failure_before_the_first_step_is_the_functions() -> None:
    def broken(make_optimizer: Any, report: Any) -> None:
        make_optimizer(nn.Linear(1, 1))
        raise ValueError("no data")

    with pytest.raises(TaskError, match="mine: the function must train, got ValueError: no data"):
        FunctionWorkload(TrainingFunction(train=broken, name="mine")).training_schedule(parse("lbfgs"), "constant")


def test_full_batches_of_gradient_descent_are_not_those_of_a_loop() -> None:
    workload = FunctionWorkload(TrainingFunction(train=Loop(), name="mine"))
    with pytest.raises(TaskError, match="gd needs all training data in one batch, got a function that makes its own"):
        workload.training_schedule(parse("gd"), "constant")
