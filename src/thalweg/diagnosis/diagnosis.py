"""Diagnosis: the result of ``diagnose``."""

import json
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.run_record import Replay, RunRecord


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


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a failed training, its evidence, and a cure that was tried; or that a training is healthy.

    Attributes:
        name: Name of the training.
        healthy: True if the training works and no change makes a difference that matters.
        findings: The findings, the cause first. Those of a healthy training are notes.
        cure: The smallest change that works; None if the training is healthy, or no replay cures it.
        score_name: What runs are compared by: ``"metric"``, ``"loss on held-back batches"``, ...
        steps: Steps of each run.
        seeds: The seeds of the fresh runs that verify the cure.
        sick: The runs as the training is, the watched one first, then those that verify.
        replays: The runs with one change, in the order in which they were tried.
        cured: The runs with the cure on fresh seeds.
        profile: Measurements of the watched run for charts: by the name of the quantity, by the name of the module or
            parameter in order of depth.
        seconds: Duration of the diagnosis.
        caution: What limits this diagnosis, such as a budget that ended it; else empty.
    """

    name: str
    healthy: bool
    findings: tuple[Finding, ...]
    cure: Cure | None
    score_name: str
    steps: int
    seeds: tuple[int, ...]
    sick: tuple[RunRecord, ...]
    replays: tuple[Replay, ...]
    cured: tuple[RunRecord, ...]
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    caution: str = ""

    @property
    def cause(self) -> Finding | None:
        """The first finding, unless the training is healthy."""
        return self.findings[0] if self.findings and not self.healthy else None

    def to_json(self) -> str:
        """Return everything as JSON; numbers that are not finite are null."""
        return json.dumps(_jsonable(asdict(self) | {"cause": None if self.cause is None else asdict(self.cause)}))

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page and return its path."""
        (writer,) = entry_points(group="thalweg.report_writers", name="diagnosis")
        return writer.load()(self, path)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'healthy' if self.healthy else 'sick'}"]
        lines += [f"{finding.severity}: {finding.kind}: {finding.explanation}" for finding in self.findings]
        if self.cure is not None:
            lines += ["", f"Cure: {self.cure.name}", self.cure.code]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(part) for part in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value
