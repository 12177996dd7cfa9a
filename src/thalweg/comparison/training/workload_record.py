"""WorkloadRecord: a task or a training function as plain data, which a store holds and a report reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class WorkloadRecord:
    """Description of a workload as plain data: what a store holds and a report reads.

    Attributes:
        name: Name of the task or the function.
        about: One line on it.
        measured: Name of the measured quantity, by split, e.g. ``{"test": "test cross-entropy"}``.
        passes: Passes over the training data in one training; None for a training function, which hides them.
        result: The measurement of a training that counts: the ``"last"`` one, or that with the ``"best"`` validation.
        sources: The split whose data stand for a split, where it has none of its own: ``{"test": "validation"}``.
    """

    name: str
    about: str
    measured: dict[str, str]
    passes: int | None
    result: str = "last"
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """True for a training function."""
        return self.passes is None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "WorkloadRecord":
        """Return the record that ``to_json`` stored."""
        return cls(
            stored["name"],
            stored["about"],
            dict(stored["measured"]),
            stored["passes"],
            stored.get("result", "last"),
            dict(stored.get("sources", {})),
        )
