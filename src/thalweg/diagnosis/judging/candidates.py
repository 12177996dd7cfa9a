"""Candidates: causes that clues name or that a probe asks about, each with a change that would cure it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from thalweg.diagnosis.changes import Change, changes_for
from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.tasks.training import Training

# Kinds that are asked about without a clue, the most frequent causes first. Their changes are settings or a part of the
# loop; a change of the model needs a clue.
PROBES = (
    "lr_too_high",
    "lr_too_low",
    "sgd_on_badly_scaled",
    "inputs_not_normalised",
    "clip_too_small",
    "schedule_kills_lr",
    "no_warmup",
    "weight_decay_too_strong",
    "momentum_too_high",
    "no_zero_grad",
    "exploding_gradient",
    "batches_sorted",
    "adam_eps_underflow",
    "update_below_precision",
)
CORE_PROBES = 3  # the first ones show what the training can reach, and are tried in any case
CERTAINTIES: dict[Certainty, int] = {"certain": 3, "likely": 2, "possible": 1}


@dataclass(frozen=True)
class Candidate:
    """A cause and a change that would cure it.

    Attributes:
        clue: The clue that names it; of a probe an empty one.
        change: The change.
        is_probe: True if nothing but a bad result speaks for it.
    """

    clue: Clue
    change: Change
    is_probe: bool = False

    @property
    def kind(self) -> str:
        """The kind of cause."""
        return self.clue.kind

    @property
    def where(self) -> str | None:
        """The module or parameter to blame."""
        return self.clue.where

    @property
    def key(self) -> tuple[str, str | None]:
        """The replay that it needs; several kinds may share it."""
        return (self.change.name, self.where)

    @property
    def certainty(self) -> int:
        """How sure its clue is, from 3 (certain) to 0 (a probe)."""
        return 0 if self.is_probe else CERTAINTIES[self.clue.certainty]


def ordered(clues: Iterable[Clue]) -> list[Clue]:
    """Return clues, the most certain first, then the earliest; of one kind and place only the first."""
    best: dict[tuple[str, str | None], Clue] = {}
    for clue in sorted(clues, key=lambda clue: (-CERTAINTIES[clue.certainty], clue.since)):
        best.setdefault((clue.kind, clue.where), clue)
    return list(best.values())


def candidates(clues: Sequence[Clue], training: Training) -> Iterator[Candidate]:
    """Yield the candidates of clues in their order, then those of the probes, without those that do not apply.

    Args:
        clues: Clues in order.
        training: A fresh training, to which changes apply or not.
    """
    probes = [Clue(kind, "possible") for kind in PROBES if kind not in {clue.kind for clue in clues}]
    for clue, is_probe in [*((clue, False) for clue in clues), *((probe, True) for probe in probes)]:
        for change in changes_for(clue.kind, clue.where):
            if not change.why_not(training, clue.where):
                yield Candidate(clue, change, is_probe)
