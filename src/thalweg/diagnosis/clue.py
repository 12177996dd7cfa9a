"""Clues: signs of a cause, found by inspection or by monitoring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Certainty = Literal["certain", "likely", "possible"]


@dataclass(frozen=True)
class Clue:
    """A sign of a cause. A symptom has many causes, so most clues only name a candidate, which a replay settles.

    Attributes:
        kind: The kind of cause, a name of ``KINDS``.
        certainty: ``certain`` if it is a fault whatever the training does (a parameter that no optimizer holds, with a
            gradient), ``likely`` if healthy trainings rarely show it, ``possible`` if they do.
        where: The name of the module or parameter to blame; None if none is.
        since: The step from which on it holds; 0 for what holds before the first step.
        evidence: Measured numbers and names, by what they are.
    """

    kind: str
    certainty: Certainty
    where: str | None = None
    since: int = 0
    evidence: Mapping[str, float | str] = field(default_factory=dict)
