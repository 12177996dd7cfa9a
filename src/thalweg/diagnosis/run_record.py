"""Records of the runs of a diagnosis, and of the cure that they verify: plain numbers, without models or tensors."""

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
        blind_start: The score before any step if every output is replaced by the mean output of its batch: what the
            model reaches without looking at its inputs. None if outputs cannot be replaced.
        blind_end: The same at the end.
        comes_trained: True if the model was trained before, as its loss at the start shows; None if that is unknown.
        ending: ``complete``; ``diverged`` if a loss was not finite or far above its start; ``stopped`` if nothing more
            was to be learnt from it; ``failed`` if it raised an error.
        message: The error of a run that failed; else empty.
        seconds: Its duration.
        step_s: Mean seconds of processor time of a step with its batch, without the first steps.
    """

    name: str
    seed: int
    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    blind_start: float | None = None
    blind_end: float | None = None
    comes_trained: bool | None = None
    ending: Ending = "complete"
    message: str = ""
    seconds: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True)
class Replay:
    """A run with one change, beside the run as it is.

    Attributes:
        change: Name of the change.
        kind: The kind of cause that the change cures.
        where: The module or parameter that it changes; None if none.
        is_probe: True if nothing but the bad result spoke for this kind.
        run: The run.
        gain: How much better it ended, as a share of what the best run reaches beyond a model that ignores its inputs;
            0 is no better than the training as it is.
        works: True if it does as well as the best run, up to what does not matter.
    """

    change: str
    kind: str
    where: str | None
    is_probe: bool
    run: RunRecord
    gain: float
    works: bool


@dataclass(frozen=True)
class Cure:
    """The smallest change that works.

    Attributes:
        kind: The kind of cause that it cures.
        where: The module or parameter that it changes; None if none.
        name: The change in a few words.
        code: Lines to paste.
        before: The score of each seed as the training is, in the order of ``seeds``.
        after: The score of each seed with the change.
        seeds: The fresh seeds.
        difference: The mean improvement.
        low: The lower end of its 95 % interval.
        high: The upper end of its 95 % interval.
        verified: True if the improvement on the fresh seeds is statistically significant and matters.
    """

    kind: str
    where: str | None
    name: str
    code: str
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    verified: bool = False
