"""A task with an optimizer as trainings, for a diagnosis."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.computation.task_training import training_function
from thalweg.errors import DiagnosisError
from thalweg.tasks import Splits, Training

X, Y = torch.rand(90, 3), torch.arange(90) % 2


def task(**parts) -> thalweg.Task:
    defaults = {"model": lambda: nn.Linear(3, 2), "loss": thalweg.supervised(functional.cross_entropy), "data": (X, Y)}
    return thalweg.Task(**(defaults | parts), batch_size=10, name="mine")


def loss_after(training: Training, steps: int) -> float:
    batches = iter(training.batches)
    for _ in range(steps):
        *inputs, target = next(batches)
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(*inputs), target)
        loss.backward()
        training.optimizer.step()
    return loss.item()


def test_a_seed_gives_the_same_training_and_each_call_a_model_of_its_own() -> None:
    make = training_function(task(), parse("sgd:lr=0.5"))
    first, same, other = make(1), make(1), make(2)
    assert loss_after(first, 12) == loss_after(same, 12) != loss_after(other, 12)
    assert first.model is not same.model
    assert first.optimizer.param_groups[0]["lr"] == 0.5
    assert first.metric is None


def test_the_loss_is_the_users_own_and_targets_have_the_dtype_it_needs() -> None:
    numbers = task(
        model=lambda: nn.Linear(3, 1),
        loss=thalweg.supervised(functional.binary_cross_entropy_with_logits),
        data=(X, Y.unsqueeze(1)),
    )
    training = training_function(numbers, parse("adam"))(0)
    assert training.loss_fn is functional.binary_cross_entropy_with_logits
    assert next(iter(training.batches))[-1].dtype == torch.float32
    assert loss_after(training, 3) > 0


def test_a_model_keeps_its_mode_and_may_return_an_object() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
            self.inner.eval()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.inner(x)}

    training = training_function(task(model=Output), parse("adam"))(0)
    assert [module.training for module in training.model.modules()] == [True, False, False, False]
    assert loss_after(training, 3) > 0


def test_a_loss_of_model_and_batch_is_the_output_of_a_model_around_it() -> None:
    own = task(loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]))
    plain = task()
    make, beside = (training_function(kind, parse("sgd:lr=0.5")) for kind in (own, plain))
    assert loss_after(make(3), 8) == pytest.approx(loss_after(beside(3), 8))
    assert make(3).model.model.weight.shape == (2, 3)


@pytest.mark.parametrize(("maximize", "sign"), [(True, 1), (False, -1)])
@pytest.mark.parametrize("is_loader", [True, False])
def test_a_metric_is_measured_on_the_validation_split_and_higher_is_better(
    maximize: bool, sign: int, is_loader: bool
) -> None:
    validation = (X[:30], Y[:30])
    parts = {"train": (X, Y), "validation": validation}
    if is_loader:
        parts = {name: DataLoader(TensorDataset(*part), 12) for name, part in parts.items()}
    measured = task(
        data=Splits(**parts),
        metric=lambda model, batch: (model(batch[0]).argmax(1) == batch[1]).float().mean(),
        maximize=maximize,
    )
    training = training_function(measured, parse("adam"))(0)
    share = (training.model(X[:30]).argmax(1) == Y[:30]).float().mean().item()
    assert 0 < share < 1
    assert training.metric is not None
    assert training.metric(training.model) == pytest.approx(sign * share)


@pytest.mark.parametrize(
    ("parts", "contender", "message"),
    [
        ({"data": None}, "adam", "have data, got none"),
        ({"accumulate": 4}, "adam", "a step for each batch, got accumulate=4"),
        ({"precision": "bfloat16"}, "adam", "no precision of its own, got bfloat16"),
        ({}, "lbfgs", "need nothing but gradients, got lbfgs"),
        ({}, "sam(sgd)", "need nothing but gradients"),
        ({}, "adam:schedule=linear", "no schedule here, got linear"),
    ],
)
def test_what_needs_another_step_is_refused(parts: dict, contender: str, message: str) -> None:
    with pytest.raises(DiagnosisError, match=f"^mine: the (task|optimizer) must .*{message}"):
        training_function(task(**parts), parse(contender))
