"""Metrics that are no mean over the examples, such as F1 and AUC, are measured on a whole split."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.computation.whole_measures import is_mean
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.task_fingerprint import fingerprint_of_task
from thalweg.tasks import Batch, Splits, Task

_GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(300, 3, generator=_GENERATOR)
Y = (X.sum(1, keepdim=True) > 0).float()


def rmse(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1]).sqrt()


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch[0]) > 0) == (batch[1] > 0.5)).float().mean()


def auc(model: nn.Module, batch: Batch) -> float:
    """Area under the ROC curve, not a number without examples of both classes."""
    scores, labels = model(batch[0]).detach().numpy()[:, 0], batch[1].numpy()[:, 0] > 0.5
    differences = scores[labels][:, None] - scores[~labels]
    return float(np.mean(differences > 0)) if differences.size else math.nan


def needs_both_classes(model: nn.Module, batch: Batch) -> float:
    if len(batch[1].unique()) < 2:
        raise ValueError("only one class")
    return 0.5


def zero_of_the_first_model(model: nn.Module, batch: Batch) -> Tensor:
    """A measure as F1: an untrained model that finds no positive example has 0 on all parts."""
    return rmse(model, batch) * (0.0 if torch.equal(model.weight, task().make_model(0).weight) else 1.0)  # type: ignore[arg-type]


def task(metric: Callable[..., Any] | None = None, **changes: Any) -> Task:
    arguments = {
        "model": lambda: nn.Linear(3, 1),
        "loss": thalweg.supervised(nn.functional.mse_loss),
        "data": Splits((X[:100], Y[:100]), (X[100:150], Y[100:150]), (X[150:], Y[150:])),
    }
    return Task(**{**arguments, "metric": metric, **changes})


@pytest.mark.parametrize("metric", [rmse, auc, needs_both_classes, zero_of_the_first_model])
def test_a_metric_of_a_whole_split_is_recognized(metric: Callable[..., Any]) -> None:
    assert not is_mean(task(metric), "test")
    assert not is_mean(task(metrics={"m": metric}), "test", "m")


def test_a_mean_over_the_examples_and_a_loss_are_recognized() -> None:
    assert is_mean(task(accuracy), "test")
    assert is_mean(task(rmse), "train")  # on which the loss is measured
    assert is_mean(task(loss=rmse), "test")
    both = task(rmse, metrics={"accuracy": accuracy})
    assert not is_mean(both, "test")
    assert is_mean(both, "test", "accuracy")


def test_the_trial_of_a_metric_draws_no_random_number() -> None:
    def noisy(model: nn.Module, batch: Batch) -> Tensor:
        return torch.rand(())

    before = torch.get_rng_state()
    assert not is_mean(task(noisy), "test")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_measured_on_all_examples_at_once_and_has_no_error_over_examples() -> None:
    whole = task(rmse, metrics={"auc": auc, "accuracy": accuracy})
    run = SingleRun(whole, parse("adam"), Trial({}, 0))
    run.step(1.0)
    batch = (X[150:], Y[150:])
    run.model.eval().requires_grad_(False)
    ((value, error),) = run.test()
    assert value == pytest.approx(float(rmse(run.model, batch)), rel=1e-6)
    assert math.isnan(error)
    (metrics,) = run.metrics()
    assert metrics["auc"] == pytest.approx(auc(run.model, batch), rel=1e-6)
    assert metrics["accuracy"] == pytest.approx(float(accuracy(run.model, batch)), rel=1e-6)
    mean = SingleRun(task(accuracy), parse("adam"), Trial({}, 0))
    assert mean.test()[0][1] > 0.01


def test_a_population_measures_it_on_all_examples_at_once() -> None:
    whole = task(rmse, metrics={"rmse again": rmse})
    run = PopulationRun(whole, parse("adam"), [Trial({}, 0), Trial({"lr": 0.5}, 1)])
    run.step(1.0)
    outputs = [
        torch.func.functional_call(nn.Linear(3, 1), {name: param[k] for name, param in run.params.items()}, X[150:])
        for k in range(2)
    ]
    expected = [float(nn.functional.mse_loss(output.detach(), Y[150:]).sqrt()) for output in outputs]
    assert [value for value, _ in run.test()] == pytest.approx(expected, rel=1e-6)
    assert [metrics["rmse again"] for metrics in run.metrics()] == pytest.approx(expected, rel=1e-6)
    assert expected[0] != expected[1]


def test_the_fingerprint_sees_the_imaginary_part_of_a_gradient() -> None:
    class Phase(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 1, dtype=torch.cfloat))

    def loss_of(slope: float) -> Callable[[nn.Module, Batch], Tensor]:
        return lambda model, batch: (slope * model.weight.imag).sum() + model.weight.real.square().sum()  # type: ignore

    first, second = (fingerprint_of_task(task(model=Phase, loss=loss_of(slope))) for slope in (1.0, 5.0))
    assert first["behaviour"] != second["behaviour"]
