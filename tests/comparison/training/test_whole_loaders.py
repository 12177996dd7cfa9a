"""A metric that is no mean over the examples is measured on all batches of a loader at once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.computation.joined_batches import JoinError, divide_batch, join_batches
from thalweg.comparison.training.computation.whole_measures import is_mean
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.errors import SettingWarning, TaskError
from thalweg.tasks import Batch, Splits, Task
from thalweg.tasks.user_code import line_of

_GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(150, 3, generator=_GENERATOR)
Y = (X.sum(1, keepdim=True) > 0.5).float()
TEST = (X[100:], Y[100:])  # in batches of 16, 16, 16 and 2


def f1_of(scores: Tensor, targets: Tensor) -> Tensor:
    hits = ((scores > 0) & (targets > 0.5)).sum()
    return 2 * hits / ((scores > 0).sum() + (targets > 0.5).sum()).clamp_min(1)


def f1(model: nn.Module, batch: Batch) -> Tensor:
    return f1_of(model(batch[0]), batch[1])


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch[0]) > 0) == (batch[1] > 0.5)).float().mean()


def zero_of_untrained(model: nn.Module, batch: Batch) -> Tensor:
    """No example is found by a model as it is made, of any seed."""
    return f1_of(model(batch[0]) - 3.0, batch[1])


def negative() -> nn.Module:
    model = nn.Linear(3, 1)
    nn.init.constant_(model.bias, -50.0)
    return model


def loader(tensors: tuple[Tensor, ...]) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=16)


class Dicts:
    """Batches as dicts, with the names of the examples, and a number that all batches share."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for x, y in zip(*(tensor.split(16) for tensor in self.tensors), strict=True):
            yield {"x": x, "y": y, "name": ["a"] * len(x), "scale": torch.tensor(1.0), "kind": "plain"}

    def __len__(self) -> int:
        return 4


class Padded(Dicts):
    """Batches of inputs that have another width each, as sequences that are padded."""

    def __iter__(self) -> Iterator[Any]:
        for k, (x, y) in enumerate(zip(*(tensor.split(16) for tensor in self.tensors), strict=True)):
            yield nn.functional.pad(x, (0, k)), y


class Graphs(Dicts):
    """Batches as objects that only the user can divide or join."""

    def __iter__(self) -> Iterator[Any]:
        for x, y in zip(*(tensor.split(16) for tensor in self.tensors), strict=True):
            yield type("Graph", (), {"x": x, "y": y, "__len__": lambda self: len(self.x)})()


class OneGraph(Graphs):
    def __iter__(self) -> Iterator[Any]:
        x, y = self.tensors
        yield type("Graph", (), {"x": x, "y": y, "__len__": lambda self: len(self.x)})()

    def __len__(self) -> int:
        return 1


class Narrow(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs[:, :3])


def task(data: Any, metric: Callable[..., Any], **changes: Any) -> Task:
    arguments = {
        "model": lambda: Narrow(3, 1),
        "loss": thalweg.supervised(nn.functional.mse_loss),
        "data": Splits((X[:100], Y[:100]), data, data),
        "name": "mine",
    }
    return Task(**{**arguments, "metric": metric, **changes})


def run_of(measured: Task) -> SingleRun:
    run = SingleRun(measured, parse("adam:lr=0.1"), Trial({}, 0))
    for _ in range(5):
        run.step(1.0)
    return run


def on_dicts(metric: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, batch: metric(model, (batch["x"] * batch["scale"], batch["y"]))


@pytest.mark.parametrize(
    ("data", "metric"),
    [
        (loader(TEST), f1),
        (loader(TEST), thalweg.supervised(f1_of)),
        (Padded(TEST), thalweg.supervised(f1_of)),
        (Dicts(TEST), on_dicts(f1)),
        ([((x,), y) for x, y in loader(TEST)], lambda model, batch: f1(model, (batch[0][0], batch[1]))),
        (OneGraph(TEST), lambda model, batch: f1(model, (batch.x, batch.y))),
    ],
    ids=["function", "supervised", "padded", "dicts", "nested", "one batch"],
)
def test_the_value_is_that_of_all_examples(data: Any, metric: Callable[..., Any]) -> None:
    run = run_of(task(data, metric, metrics={"again": metric}))
    ((value, _),) = run.test()
    expected = float(f1(run.model, TEST))
    mean_of_batches = sum(float(f1(run.model, batch)) for batch in loader(TEST)) / 4
    assert value == pytest.approx(expected, rel=1e-6)
    assert run.metrics()[0]["again"] == pytest.approx(expected, rel=1e-6)
    assert abs(expected - mean_of_batches) > 0.02


def test_a_mean_is_measured_batch_by_batch_and_has_an_error_over_examples() -> None:
    for data, metric in ((loader(TEST), accuracy), (Dicts(TEST), on_dicts(accuracy)), (Padded(TEST), accuracy)):
        measured = task(data, metric)
        assert is_mean(measured, "test")
        run = run_of(measured)
        ((value, error),) = run.test()
        assert value == pytest.approx(float(accuracy(run.model, TEST)), rel=1e-5)
        assert error > 0.0


@pytest.mark.parametrize("data", [TEST, loader(TEST)], ids=["tensors", "loader"])
def test_a_metric_that_is_0_on_untrained_models_is_not_taken_for_a_mean(data: Any) -> None:
    measured = task(data, zero_of_untrained)
    assert {float(zero_of_untrained(measured.make_model(seed), TEST)) for seed in range(3)} == {0.0}
    assert not is_mean(measured, "test")


@pytest.mark.parametrize("data", [TEST, loader(TEST)], ids=["tensors", "loader"])
def test_a_metric_of_which_nothing_can_be_found_out_is_measured_on_the_whole(data: Any) -> None:
    """Its value is right then, if it is a mean and if it is none."""
    assert not is_mean(task(data, f1, model=negative), "test")
    assert not is_mean(task(data, lambda model, batch: 0.5), "test")


def test_examples_that_are_sorted_by_class_show_what_a_metric_is() -> None:
    order = Y[:, 0].argsort(stable=True)
    assert is_mean(task((X[order], Y[order]), accuracy), "test")
    assert not is_mean(task((X[order], Y[order]), f1), "test")


def test_batches_that_do_not_fit_name_the_metric_its_line_and_the_cure() -> None:
    run = run_of(task(Padded(TEST), f1, metric_name="F1"))
    with pytest.raises(TaskError) as raised:
        run.test()
    message = str(raised.value)
    assert message.startswith("mine: the batches of the test loader must fit together: F1 is no mean")
    assert "got tensors of the shapes (16, 3) and (16, 4)" in message
    assert f"(at {line_of(f1)})" in message
    assert "batch_size=len(dataset)" in message
    assert "thalweg.supervised(...)" in message


def test_a_metric_of_objects_that_only_the_user_can_divide_is_averaged_and_said_to_be() -> None:
    def metric(model: nn.Module, batch: Any) -> Tensor:
        return f1(model, (batch.x, batch.y))

    measured = task(Graphs(TEST), metric, metric_name="F1")
    with pytest.warns(SettingWarning, match=r"mine: F1 is averaged .*batch_size=len\(dataset\)") as warned:
        assert is_mean(measured, "test")
    assert f"(at {line_of(metric)})" in str(warned[0].message)
    assert is_mean(measured, "test")  # said once


def test_the_trial_of_a_metric_leaves_the_order_of_a_loader_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    shuffled = DataLoader(TensorDataset(*TEST), batch_size=16, shuffle=True, generator=generator)
    measured = task(shuffled, f1)
    before, of_torch = generator.get_state(), torch.get_rng_state()
    assert not is_mean(measured, "test")
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), of_torch)


def test_a_part_that_is_no_row_for_each_example_is_kept_or_refused() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    joined = join_batches([(X[:4], weights), (X[4:7], weights)])
    assert torch.equal(joined[0], X[:7])
    assert joined[1] is weights
    with pytest.raises(JoinError, match=r"shapes \(3,\) and \(3,\)"):
        join_batches([(X[:4], weights), (X[4:7], weights + 1)])
    with pytest.raises(JoinError):
        divide_batch((X[:4], weights), 2)
    assert [len(part[0]) for part in divide_batch((X[:5], Y[:5]), 2)] == [2, 2, 1]
