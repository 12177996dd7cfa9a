"""inspect: facts that are known of a training before its first step, or from a few steps that are undone."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.nn.parameter import is_lazy

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.inspection.data import data_clues
from thalweg.diagnosis.inspection.loop import loop_clues
from thalweg.diagnosis.inspection.loss_sites import loss_sites
from thalweg.diagnosis.inspection.numbers import number_clues
from thalweg.diagnosis.inspection.observation import observe
from thalweg.diagnosis.inspection.output_and_loss import output_and_loss_clues
from thalweg.diagnosis.inspection.propagation import propagation_clues
from thalweg.diagnosis.inspection.several_losses import several_losses_clues
from thalweg.diagnosis.inspection.wiring import wiring_clues
from thalweg.tasks.training import Training
from thalweg.tasks.user_code import describe

_CERTAINTIES = ("certain", "likely", "possible")


def inspect(training: Training, batches: Sequence[tuple[Any, ...]]) -> list[Clue]:
    """Return clues about a training that has not begun.

    A few steps are taken, watched and undone: the training ends bit by bit as it was.

    Args:
        training: The training.
        batches: Some batches of the training, in their order; they are not changed.

    Returns:
        The clues, the most certain ones first.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from thalweg import Training
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Softmax(dim=-1))
        >>> batches = [(torch.randn(16, 4), torch.arange(16) % 3)]
        >>> training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, nn.CrossEntropyLoss())
        >>> for clue in inspect(training, batches):
        ...     print(clue.kind, clue.certainty, clue.where)
        softmax_before_cross_entropy certain 3
    """
    if any(is_lazy(param) for param in training.model.parameters()):
        return []  # lazy layers: there is nothing to look at, and their first step cannot be undone
    observation = observe(training, batches)
    sites = loss_sites(observation)
    checks: dict[str, Callable[[], Iterator[Clue]]] = {
        "wiring": lambda: wiring_clues(observation),
        "output and loss": lambda: output_and_loss_clues(observation, sites),
        "loop": lambda: loop_clues(observation),
        "data": lambda: data_clues(observation, sites),
        "propagation": lambda: propagation_clues(observation),
        "several losses": lambda: several_losses_clues(observation),
        "numbers": lambda: number_clues(observation),
    }
    clues = [clue for name, check in checks.items() for clue in _clues_of(name, check)]
    return sorted(clues, key=lambda clue: _CERTAINTIES.index(clue.certainty))


def _clues_of(name: str, check: Callable[[], Iterator[Clue]]) -> list[Clue]:
    """Return the clues of a check; none, with a warning, if the training has a form that the check does not know."""
    try:
        return list(check())
    except Exception as error:
        warnings.warn(f"inspect: the check of {name} was left out: {describe(error)}.", RuntimeWarning, stacklevel=3)
        return []
