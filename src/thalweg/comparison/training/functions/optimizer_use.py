"""OptimizerUse: how a training function made an optimizer, and which of its settings it changed, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class OptimizerUse:
    """An optimizer that a training function requested.

    Attributes:
        name: Name of the optimizer, if the training has several; else empty.
        line: File and line of the call of ``make_optimizer``; empty if unknown.
        argument: Python text of its first argument; empty if unknown.
        takes_model: True if that argument is a model, False if it is parameters or groups.
        model: Python text of its argument ``model=`` beside the first one; empty if there is none, or unknown.
        lr_scales: Share of the trial's learning rate that each group gets; empty if no group has one of its own.
        schedule_steps: Length of the schedule that the function requested; None if it requested none.
        changed: Values of each searched setting, by moment and group, if they differ from the trial's.
        changed_at: File and line of the first change, by setting, where it is known.
        last_changed_at: File and line of the last change that was noticed, by setting.
        steps: Number of its steps; 0 if they were not counted.
    """

    name: str = ""
    line: str = ""
    argument: str = ""
    takes_model: bool = True
    model: str = ""
    lr_scales: list[float] = field(default_factory=list)
    schedule_steps: int | None = None
    changed: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    changed_at: dict[str, str] = field(default_factory=dict)
    last_changed_at: dict[str, str] = field(default_factory=dict)
    steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON without its defaults, for the store."""
        default = asdict(OptimizerUse())
        return {key: value for key, value in asdict(self).items() if value != default[key]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "OptimizerUse":
        """Return the record that ``to_json`` stored; raise TypeError if it has another shape."""
        default = asdict(cls())
        for key, value in stored.items():
            kinds = (int, type(None)) if key == "schedule_steps" else (type(default.get(key)),)
            if key not in default or not isinstance(value, kinds):
                raise TypeError(f"{key} of an optimizer cannot be {value!r:.40}")
        return cls(**stored)
