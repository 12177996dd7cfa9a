"""Scores: what runs are compared by. Higher is better; a score that is not finite is minus infinity.

The user's metric if there is one; else the loss on batches that no step uses, with the loss function as the user wrote
it; else the mean of the last training losses, where the user's step has a loss of its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from thalweg.diagnosis.run_training import Batch, evaluating
from thalweg.tasks.training import Training

HELD_BACK = 4  # batches
TRAINED = 0.3  # the share by which the loss of a model that comes trained is below that of a blind one


class ModelScorer(ABC):
    """A score of the model as it is, in evaluation mode and without gradients."""

    name: str

    @abstractmethod
    def measure(self, training: Training) -> float:
        """Return the score of the model as it is now."""

    def score(self, training: Training) -> float:
        """Return the score; minus infinity if it is not finite."""
        with evaluating(training):
            return finite(self.measure(training))

    def blind_score(self, training: Training) -> float | None:
        """Return the score with the mean output of each batch in place of each output.

        None if the model itself is not called, or a batch holds one example.
        """
        was_replaced = False

        def replace_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            nonlocal was_replaced
            blind = tree_map(_batch_mean, output)
            was_replaced |= blind is not output
            return blind

        hook = training.model.register_forward_hook(replace_output)
        try:
            score = self.score(training)
        finally:
            hook.remove()
        return score if was_replaced and math.isfinite(score) else None


def _batch_mean(output: Any) -> Any:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 1 or len(output) < 2:
        return output
    return output.mean(0, keepdim=True).expand_as(output)


@dataclass(frozen=True)
class MetricScorer(ModelScorer):
    """The user's metric."""

    name = "metric"

    def measure(self, training: Training) -> float:
        """Return the metric."""
        assert training.metric is not None
        return float(training.metric(training.model))


@dataclass(frozen=True)
class LossScorer(ModelScorer):
    """Minus the loss on held-back batches.

    Attributes:
        batches: The held-back batches.
        loss_fn: The loss as the user wrote it; a change may have replaced that of the training.
    """

    batches: Sequence[Batch]
    loss_fn: Callable[[Any, Any], Tensor]
    name = "loss on held-back batches"

    def measure(self, training: Training) -> float:
        """Return minus the mean loss."""
        losses = [float(self.loss_fn(training.model(*inputs), target)) for *inputs, target in self.batches]
        return -sum(losses) / len(losses)


@dataclass(frozen=True)
class AgreementScorer(ModelScorer):
    """The share of right classes, or of explained variance, on held-back batches: independent of the loss.

    Attributes:
        batches: The held-back batches.
    """

    batches: Sequence[Batch]
    name = "agreement of outputs and targets on held-back batches"

    def measure(self, training: Training) -> float:
        """Return the mean agreement."""
        values = [agreement(training.model(*inputs), target) for *inputs, target in self.batches]
        return sum(values) / len(values)


class NoScorer:
    """No score: the user's step has a loss of its own, and there is no metric. Losses are compared."""

    name = "last training losses"

    def score(self, training: Training) -> float:
        """Return not a number; the record's losses count."""
        return math.nan

    def blind_score(self, training: Training) -> None:
        """Return None."""


def comes_trained(training: Training, batches: Sequence[Batch]) -> bool | None:
    """Return True if the loss shows that a model was trained before: it is far below that of a blind model.

    Args:
        training: A training that has not begun.
        batches: Some of its batches.

    Returns:
        None if it cannot be told, as where the user's step has a loss of its own.
    """
    scorer = LossScorer(batches, training.loss_fn)
    try:
        score, blind = scorer.score(training), scorer.blind_score(training)
    except Exception:  # of the user's code
        return None
    return None if blind is None or not math.isfinite(score) else score - blind > TRAINED * abs(blind)


def finite(score: float) -> float:
    """Return the score; minus infinity if it is not finite."""
    return score if math.isfinite(score) else -math.inf


def agreement(output: Any, target: Any) -> float:
    """Return the share of right classes, or the explained share of the variance; nan if neither can be told.

    Args:
        output: Logits or probabilities with the classes in the last or second dimension, or values; a tuple's first
            tensor counts.
        target: Class numbers, zeros and ones, or values.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or not output.is_floating_point():
        return math.nan
    if not target.is_floating_point() and target.dim() == output.dim() - 1:
        classes = -1 if output.shape[:-1] == target.shape else 1
        return float((output.argmax(classes) == target).float().mean())
    if output.numel() != target.numel():
        return math.nan
    values, truth = output.reshape(-1).double(), target.reshape(-1).double()
    spread = (truth - truth.mean()).square().mean()
    if float(spread) == 0.0 or not bool(torch.isfinite(values).all()):
        return math.nan
    if bool(((truth == 0) | (truth == 1)).all()):  # any monotone output: how well it separates the two
        ranks = values.argsort().argsort().double()
        positive = truth == 1
        return float((ranks[positive].mean() - ranks[~positive].mean()) / len(values) + 0.5)
    return float(1 - (values - truth).square().mean() / spread)
