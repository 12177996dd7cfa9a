"""The data, models and losses that people bring: each trains as tensors do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Subset, TensorDataset

from tests.tasks.data.user_data import ARRAY, COUNT, INPUTS, LABELS, WithLogits, classifier, make_task, reference, train
from thalweg.tasks import Splits
from thalweg.tasks.supervised import supervised


class WithDict(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return {"hidden": inputs, "logits": self.inner(inputs)}


class WithTuple(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return self.inner(inputs), ("a state", inputs)


class WithList(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return [self.inner(inputs)]


def lazy_classifier() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def with_unused_parameters() -> nn.Module:
    model = classifier()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return model


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ((ARRAY, LABELS.numpy()), classifier),
        ([ARRAY, LABELS.numpy()], classifier),
        ((ARRAY.astype(">f8"), LABELS.numpy().astype("int32")), classifier),
        ((INPUTS.tolist(), LABELS.tolist()), classifier),
        ((np.asfortranarray(ARRAY)[::-1][::-1], LABELS.float()), classifier),
        ((INPUTS, LABELS.double().numpy()), classifier),
        ((INPUTS, LABELS.to(torch.uint8)), classifier),
        (TensorDataset(INPUTS, LABELS), classifier),
        (Subset(TensorDataset(INPUTS, LABELS), range(COUNT)), classifier),
        (lambda: (ARRAY, LABELS), classifier),
        ((INPUTS, LABELS), WithLogits),
        ((INPUTS, LABELS), WithDict),
        ((INPUTS, LABELS), WithTuple),
        ((INPUTS, LABELS), WithList),
        ((ARRAY.astype(np.longdouble), LABELS.numpy().astype("uint16")), classifier),
        ((INPUTS.clone().requires_grad_() * 1.0, LABELS), classifier),
        ((INPUTS, LABELS), lazy_classifier),
        ((INPUTS, LABELS), with_unused_parameters),
    ],
    ids=map(str, range(18)),
)
def test_it_trains_as_tensors_do(data: Any, model: Callable[[], nn.Module]) -> None:
    result, expected = train(make_task(data, model)), reference()
    assert (result.status, result.message) == ("ok", "")
    assert result.test == pytest.approx(expected.test, rel=1e-6)
    assert result.train == pytest.approx(expected.train, rel=1e-6)


def test_real_numbers_of_arrays_get_the_dtype_of_the_model_and_tensors_keep_theirs() -> None:
    double = make_task((ARRAY, LABELS), lambda: classifier().double())
    assert double.splits.train[0].dtype == torch.float64
    assert train(double).status == "ok"
    for kind in ("float16", "float32", "float64"):
        assert make_task((ARRAY.astype(kind), LABELS)).splits.train[0].dtype == torch.float32
    assert make_task((INPUTS.double(), LABELS)).splits.train[0].dtype == torch.float64


def test_frozen_parameters_stay_as_they_are() -> None:
    def frozen() -> nn.Module:
        model = classifier()
        model[0].requires_grad_(False)
        return model

    assert train(make_task((INPUTS, LABELS), frozen)).train > reference().train


def test_targets_of_whole_numbers_get_the_dtype_of_the_output() -> None:
    def trained(targets: torch.Tensor) -> float:
        return train(make_task((INPUTS, targets[:, None]), lambda: nn.Linear(4, 1), supervised(nn.MSELoss()))).test

    assert trained(LABELS) == trained(LABELS.double()) == trained(LABELS.float())


def test_one_hot_labels_are_probabilities_whatever_their_dtype() -> None:
    one_hot = functional.one_hot(LABELS)
    trained = [train(make_task((INPUTS, labels))).test for labels in (one_hot, one_hot.float(), one_hot.bool())]
    assert trained == [pytest.approx(reference().test, rel=1e-6)] * 3


@pytest.mark.parametrize("form", ["whole", "splits", "computed"])
def test_a_loss_may_differentiate_by_data_that_require_gradients(form: str) -> None:
    def slope(model: nn.Module, batch: Any) -> torch.Tensor:
        (points,) = batch
        (slopes,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return (slopes - 1.0).square().mean()

    points = INPUTS.clone().requires_grad_()
    shifted = points + 1.0
    data: Any = {"whole": (points,), "splits": Splits((points,), (points,)), "computed": Splits((shifted,))}[form]
    task = make_task(data, lambda: nn.Sequential(nn.Linear(4, 1), nn.Tanh()), slope)
    result = train(task)
    assert result.status == "ok", result.message
    assert points.grad is None


def test_a_model_whose_shapes_follow_from_a_batch_is_as_new_and_depends_on_its_seed_alone() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Dropout(0.5), nn.LazyLinear(3))

    task = make_task((INPUTS, LABELS), model)
    state = torch.get_rng_state()
    first, second, different = task.make_model(1), task.make_model(1), task.make_model(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training
    assert [tuple(param.shape) for param in first.parameters()] == [(8, 4), (8,), (8,), (8,), (3, 8), (3,)]
    assert torch.equal(first[1].running_mean, torch.zeros(8))
    assert torch.equal(first[3].weight, second[3].weight)
    assert not torch.equal(first[3].weight, different[3].weight)
