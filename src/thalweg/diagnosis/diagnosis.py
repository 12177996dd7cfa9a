"""Diagnosis: the result of ``diagnose``."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thalweg.diagnosis import presentation
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.run_record import Cure, Replay, RunRecord
from thalweg.parts import as_plain_json
from thalweg.report_writer import load_report_writer


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a failed training, its evidence, and a cure that was tried; or that a training is healthy.

    Attributes:
        name: Name of the training.
        healthy: True if the training works and no change makes a difference that matters; None if that is not known,
            because the budget ended before the changes that show it were tried.
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
    healthy: bool | None
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
        """The first finding; None if the training is healthy, or that is not known."""
        return self.findings[0] if self.findings and self.healthy is False else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON; numbers that are not finite are None."""
        fields: dict[str, Any] = as_plain_json(asdict(self))
        return fields | {"cause": fields["findings"][0] if self.cause is not None else None}

    def report(self, path: str | Path = "doctor.html", *, overwrite: bool = False) -> Path:
        """Write one self-contained HTML page with the evidence as pictures.

        Args:
            path: The file. Its folder is made if it does not exist.
            overwrite: True replaces a file that is no page of thalweg.

        Returns:
            The path of the file.

        Raises:
            StoreError: If the file cannot be written, is a link, or is no page of thalweg.
        """
        return load_report_writer("diagnosis")(self, path, overwrite=overwrite)

    __str__ = presentation.text_of
    _repr_html_ = presentation.html_of
