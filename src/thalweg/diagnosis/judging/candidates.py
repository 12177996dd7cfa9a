"""Candidates: causes that clues name or that a probe asks about, each with a change that would cure it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from thalweg.diagnosis.changes import CHANGES, Change, changes_for
from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.kinds import KINDS
from thalweg.tasks.training import Training

# Kinds that are asked about without a clue, with the changes that ask, in order. They are settings, or parts of the
# loop or of the data; a change of the model needs a clue.
PROBES: dict[str, tuple[str, ...]] = {
    "lr_too_high": ("learning rate / 10", "learning rate / 100"),
    "lr_too_low": ("learning rate x 10", "learning rate x 100", "learning rate x 1000", "learning rate x 10000"),
    "sgd_on_badly_scaled": ("Adam", "Adam at learning rate 0.01"),
    "gan_discriminator_wins": ("discriminator's learning rate / 10", "discriminator's learning rate / 100"),
    "bootstrap_divergence": ("targets of a slow copy",),
    "posterior_collapse": ("divergence weighted / 100",),
    "inputs_not_normalised": ("inputs normalized",),
    "weight_decay_too_strong": ("no weight decay",),
    "clip_too_small": ("no clipping",),
    "schedule_kills_lr": ("constant learning rate",),
    "momentum_too_high": ("lower momentum",),
    "no_warmup": ("warm-up over 100 steps",),
    "no_zero_grad": ("gradients zeroed before each step",),
    "left_in_eval_mode": ("training mode before each step",),
    "exploding_gradient": ("gradients clipped at norm 1",),
    "batches_sorted": ("shuffled batches",),
    "adam_eps_underflow": ("smaller epsilon",),
    "update_below_precision": ("float32",),
}
CORE_PROBES = (
    "lr_too_high",
    "lr_too_low",
    "sgd_on_badly_scaled",
)  # show what can be reached, and are tried in any case
CERTAINTIES: dict[Certainty, int] = {"certain": 3, "likely": 2, "possible": 1}
SYMPTOMS = "during training"  # the group of kinds that say how a training looks
STRUCTURAL = "several losses"
MAX_PLACES = 2  # of one kind; more places rarely differ in what cures them


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
    def cause(self) -> tuple[str, str | None]:
        """The kind and the place."""
        return (self.kind, self.where)

    @property
    def key(self) -> tuple[str, str | None]:
        """The replay that it needs; several kinds may share it."""
        return (self.change.name, self.where)

    @property
    def is_symptom(self) -> bool:
        """True if its kind says how a training looks, which may have any cause."""
        return KINDS[self.kind].group == SYMPTOMS

    @property
    def is_structural(self) -> bool:
        """True if its kind belongs to trainings of a kind of their own, such as those with a discriminator."""
        return KINDS[self.kind].group == STRUCTURAL

    @property
    def certainty(self) -> int:
        """The certainty of its clue, from 3 (certain) to 0 (a probe)."""
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
    places: dict[str, int] = {}
    for clue in clues:
        places[clue.kind] = places.get(clue.kind, 0) + 1
        if places[clue.kind] > MAX_PLACES:
            continue
        for change in changes_for(clue.kind, clue.where):
            if _is_own(change, clue.kind) and not change.why_not(training, clue.where):
                yield Candidate(clue, change)
    for kind, names in PROBES.items():
        if kind in places or (kind == "sgd_on_badly_scaled" and _is_adaptive(training)):
            continue
        for change in (change for name in names for change in CHANGES if change.name == name):
            if not change.why_not(training, None):
                yield Candidate(Clue(kind, "possible"), change, is_probe=True)


def _is_own(change: Change, kind: str) -> bool:
    """Return False for a change that helps against many faults, such as a lower learning rate.

    It shows no other cause than its own, the first one that it cures.
    """
    return change.cures[0] == kind or "step" not in (KINDS[change.cures[0]].group, KINDS[kind].group)


def _is_adaptive(training: Training) -> bool:
    """Return True if the optimizer scales the steps of each parameter by itself, as those with an epsilon do."""
    return any("eps" in group for group in getattr(training.optimizer, "param_groups", []))
