"""The text about one kind of cause."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The text about one kind of cause.

    Attributes:
        explanation: Why it harms a training, in a sentence or two.
        remedy: What to do, in a sentence or two.
        source: Where it is described.
    """

    explanation: str
    remedy: str
    source: str
