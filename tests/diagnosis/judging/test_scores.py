"""Scores of a model, with and without looking at its inputs."""

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.diagnosis.judging.scores import AgreementScorer, LossScorer, MetricScorer, agreement
from thalweg.tasks import Training


def training_of(model: nn.Module, metric=None) -> Training:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Training(model, optimizer, [], nn.functional.mse_loss, metric=metric)


class Double(nn.Module):
    """Returns twice its input in training, and its input in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


X = torch.tensor([[0.0], [2.0], [4.0]])


def test_a_metric_is_measured_in_evaluation_mode() -> None:
    training = training_of(Double(), metric=lambda model: model(X).sum())
    assert MetricScorer().score(training) == 6.0
    assert training.model.training


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_the_worst(value: float) -> None:
    assert MetricScorer().score(training_of(Double(), metric=lambda model: value)) == -math.inf


def test_blind_scores_replace_outputs_by_their_mean() -> None:
    training = training_of(Double(), metric=lambda model: -(model(X) - X).square().sum())
    assert MetricScorer().score(training) == 0.0
    assert MetricScorer().blind_score(training) == -8.0
    assert MetricScorer().score(training) == 0.0  # the hook is gone


def test_models_that_are_not_called_have_no_blind_score() -> None:
    assert MetricScorer().blind_score(training_of(Double(), metric=lambda model: 3.0)) is None


def test_batches_of_one_have_no_blind_score() -> None:
    assert MetricScorer().blind_score(training_of(Double(), metric=lambda model: model(X[:1]).sum())) is None


def test_blind_outputs_in_tuples_and_dicts() -> None:
    class Both(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x, {"y": x}

    def metric(model: nn.Module) -> float:
        x, parts = model(X)
        return float(x[2] + parts["y"][2])

    assert MetricScorer().blind_score(training_of(Both(1, 1), metric=metric)) == 4.0


def test_losses_on_held_back_batches() -> None:
    batches = [(X, X + 1), (X, X + 3)]
    scorer = LossScorer(batches, nn.functional.mse_loss)
    assert scorer.score(training_of(Double())) == -5.0


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    assert LossScorer([(X, X * math.nan)], nn.functional.mse_loss).score(training_of(Double())) == -math.inf


def test_agreement_needs_no_loss() -> None:
    assert AgreementScorer([(X, X), (X, X + 10)]).score(training_of(Double())) == pytest.approx(
        1 - 0.5 * 100 / (8 / 3), rel=1e-6
    )


LOGITS = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        (LOGITS, torch.tensor([0, 1, 1, 0]), 0.75),
        ((LOGITS, "hidden"), torch.tensor([0, 1, 1, 1]), 0.5),
        (LOGITS.T[None], torch.tensor([[0, 1, 1, 0]]), 0.75),  # the classes in the second dimension
        (torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 1 - 0.5 / 0.25),
        (torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0]), 1.0),
        (torch.tensor([-1.0, 5.0, 0.0, 9.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]), 1.0),
        (torch.tensor([5.0, -1.0, 9.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.0),
    ],
)
def test_agreement(output: object, target: Tensor, expected: float) -> None:
    assert agreement(output, target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (None, torch.zeros(2)),
        (torch.zeros(2, 3), torch.zeros(5)),
        (torch.zeros(2), torch.ones(2)),
        (torch.tensor([1.0, math.nan]), torch.tensor([0.5, 1.0])),
    ],
)
def test_agreement_that_cannot_be_told(output: object, target: Tensor) -> None:
    assert math.isnan(agreement(output, target))
