"""Functions as training functions: those whose body a call does not run are refused before any training."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from thalweg.errors import TaskError
from thalweg.tasks import TrainingFunction, as_task

HERE = str(Path(__file__))


def sound(make_optimizer: Callable[..., Any], report: Callable[[float], None]) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    weight.square().sum().backward()
    optimizer.step()
    report(weight.detach().square().sum().item())


async def waiting(make_optimizer: Any, report: Any) -> None:
    sound(make_optimizer, report)


def yielding(make_optimizer: Any, report: Any) -> Iterator[int]:
    sound(make_optimizer, report)
    yield 1


async def both(make_optimizer: Any, report: Any) -> AsyncIterator[int]:
    sound(make_optimizer, report)
    yield 1


class Waiting:
    async def __call__(self, make_optimizer: Any, report: Any) -> None: ...

    async def train(self, make_optimizer: Any, report: Any) -> None: ...


class Yielding:
    def __call__(self, make_optimizer: Any, report: Any) -> Iterator[int]:
        yield 1


ASYNC = "got an async function .*Write def instead of async def; asyncio.run"
GENERATOR = "got a generator function, since it has a yield .*Remove the yield: report"
ASYNC_GENERATOR = "got an async generator function .*Write def instead of async def"
KINDS = [(waiting, ASYNC), (yielding, GENERATOR), (both, ASYNC_GENERATOR)]


@pytest.mark.parametrize(("function", "message"), KINDS, ids=["async", "generator", "async generator"])
def test_a_function_that_a_call_does_not_run_is_refused_with_its_line(
    function: Callable[..., Any], message: str
) -> None:
    for make in (as_task, lambda train: thalweg.compare(train, ["sgd"], budget="2trials")):
        with pytest.raises(TaskError, match=f"{function.__name__}: a training function must train when it is called, "):
            make(function)
    with pytest.raises(TaskError, match=message) as error:
        as_task(function)
    assert f"(at {HERE}:{inspect.getsourcelines(function)[1]})" in str(error.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (functools.partial(waiting), ASYNC),
        (functools.partial(yielding), GENERATOR),
        (Waiting(), ASYNC),
        (Waiting().train, ASYNC),
        (Yielding(), GENERATOR),
        (lambda make_optimizer, report: (yield), GENERATOR),
    ],
)
def test_other_callables_of_these_kinds_are_refused_too(train: Callable[..., Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        TrainingFunction(train=train)


@pytest.mark.parametrize(("function", "message"), KINDS, ids=["async", "generator", "async generator"])
def test_a_function_that_only_calls_one_of_them_is_told_when_it_returns(
    function: Callable[..., Any], message: str
) -> None:
    for caller in (lambda make_optimizer, report: function(make_optimizer, report), decorated(function)):
        with pytest.raises(TaskError, match=message):  # and no warning about a coroutine that nobody awaits
            TrainingFunction(train=caller).run(lambda params: torch.optim.SGD(params, lr=0.1), lambda value: None)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    "train",
    [
        lambda make_optimizer, report: sound(make_optimizer, report),
        lambda make_optimizer, report: asyncio.run(waiting(make_optimizer, report)),
        decorated(sound),
    ],
    ids=["lambda", "asyncio.run", "decorator"],
)
def test_other_functions_train(train: Callable[..., Any]) -> None:
    comparison = thalweg.compare(train, ["sgd"], budget="2trials", workers=1, quiet=True)
    assert comparison.contenders[0].value.mean < 2


@pytest.mark.parametrize("value", [functools.partial(sound), Waiting().train, functools.lru_cache(sound)])
def test_other_callables_are_named_with_the_function_to_write(value: Any) -> None:
    with pytest.raises(TaskError, match=r"got \w+ .*Write def train\(make_optimizer, report\), and call it there"):
        as_task(value)
    with pytest.raises(TaskError, match="got a class, Waiting .*Make an instance of Waiting"):
        as_task(Waiting)
