"""The changes that a diagnosis may try, and those for a kind of cause."""

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.steps import ADAM, ConstantSchedule, ScaleLearningRate, WarmUp

CHANGES: list[Change] = [
    ScaleLearningRate(name="learning rate x 10", cures=("lr_too_low", "plateau"), factor=10.0),
    ScaleLearningRate(name="learning rate / 10", cures=("lr_too_high",), factor=0.1),
    WarmUp(name="warm-up over 100 steps", cures=("no_warmup",)),
    ConstantSchedule(name="constant learning rate", cures=("schedule_kills_lr",)),
    ADAM,
]


def changes_for(kind: str, where: str | None) -> list[Change]:
    """Return the changes that cure a kind of cause, the smallest first.

    Args:
        kind: The kind, a name of ``KINDS``.
        where: The module or parameter to blame; None if none is.
    """
    return sorted((change for change in CHANGES if kind in change.cures), key=lambda change: change.size)
