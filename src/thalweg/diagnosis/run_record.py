"""What a diagnosis keeps of each run of a training: plain numbers, without models or tensors."""

from dataclasses import dataclass
from typing import Literal

Ending = Literal["complete", "diverged", "stopped", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """One run of a training.

    Attributes:
        name: ``"as it is"``, or the name of the change with which it ran.
        seed: Its seed.
        losses: The training loss of each step.
        scores: Pairs (steps done, score), higher is better, in order; the first before any step.
        ending: ``complete``; ``diverged`` if a loss was not finite or far above its start; ``stopped`` if nothing more
            was to be learnt from it; ``failed`` if it raised an error.
        message: The error of a run that failed; else empty.
        seconds: Its duration.
    """

    name: str
    seed: int
    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    ending: Ending = "complete"
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Replay:
    """A run with one change, beside the run as it is.

    Attributes:
        change: Name of the change.
        kind: The kind of cause that the change would cure; empty for a generic probe.
        where: The module or parameter that it changes; None if none.
        run: The run.
        gain: How much better it ended, as a share of what was reached at best: 0 as the sick run, 1 as the best run.
        works: True if it does as well as the best, up to what does not matter.
    """

    change: str
    kind: str
    where: str | None
    run: RunRecord
    gain: float
    works: bool
