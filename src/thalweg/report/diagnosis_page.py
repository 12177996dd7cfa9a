"""The page of a diagnosis: one self-contained HTML file with the cause, its evidence and the cure that was tried."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import thalweg
from thalweg.comparison.results import environment
from thalweg.diagnosis import presentation
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.run_record import Replay, RunRecord
from thalweg.parts import Parts
from thalweg.report.assets import load_assets
from thalweg.report.charts import diagnosis as charts
from thalweg.report.charts.data import Chart
from thalweg.report.charts.placed import draw_charts, script_data
from thalweg.report.files import write_page
from thalweg.report.numbers import shorten, sortable
from thalweg.report.raw_numbers import embedded_json, numbers_of_runs
from thalweg.report.templates import render_template, values_of

_NONE = "–"


def write_diagnosis(
    diagnosis: Diagnosis,
    path: str | Path,
    *,
    overwrite: bool = False,
    command: str = "",
    parts: Parts | None = None,
) -> Path:
    """Write the page of a diagnosis to a file.

    Args:
        diagnosis: The diagnosis.
        path: The HTML file. Its folder is made if it does not exist.
        overwrite: True replaces a file that is no page of thalweg.
        command: The command line that makes this diagnosis again; empty if it was made in Python.
        parts: Knows the parts of the page that could not be made.

    Returns:
        The path of the file.

    Raises:
        StoreError: If the file cannot be written, is a link, or is no page of thalweg.
    """
    return write_page(Path(path), render_diagnosis(diagnosis, command=command, parts=parts), overwrite=overwrite)


def render_diagnosis(diagnosis: Diagnosis, *, command: str = "", parts: Parts | None = None) -> str:
    """Return the page of a diagnosis as HTML, with its style and charts inside.

    Args:
        diagnosis: The diagnosis.
        command: The command line that makes it again; empty if it was made in Python.
        parts: Knows the parts of the page that could not be made; each is also a note on the page.
    """
    parts = Parts() if parts is None else parts
    assets = load_assets(with_charts=True)
    return render_template("diagnosis.html", values_of(_values(diagnosis, command, parts)), parts, assets)


def _title(diagnosis: Diagnosis) -> str:
    """Return the answer in a few words."""
    if diagnosis.cause is not None:
        return presentation.title_of(diagnosis.cause.kind)
    return {True: "healthy", False: "no cause was found", None: "not known"}[diagnosis.healthy]


def _values(diagnosis: Diagnosis, command: str, parts: Parts) -> dict[str, Callable[[], Any]]:
    """Return a function for each value of the template, so that one that raises leaves the others."""
    cause, cure = diagnosis.cause, diagnosis.cure
    sick = diagnosis.sick[0] if diagnosis.sick else None
    shown = {"evidence": _evidence_charts(diagnosis, parts), "cure": _cure_charts(diagnosis, parts)}

    @cache
    def raw() -> dict[str, Any] | None:
        return parts.make("the raw numbers", lambda: numbers_of_runs(diagnosis), None)

    further = [finding for finding in diagnosis.findings if finding is not cause]
    return {
        "title": lambda: shorten(f"{diagnosis.name}: {_title(diagnosis)}"),
        "name": lambda: diagnosis.name,
        "headline": lambda: presentation.headline(diagnosis),
        "cause": lambda: cause,
        "explanation": lambda: presentation.explanation_of(cause) if cause else "",
        "checked": lambda: presentation.checked(diagnosis),
        "cure": lambda: cure,
        "cure_sentences": lambda: presentation.cure_sentences(diagnosis, cure) if cure else [],
        "no_cure": lambda: presentation.no_cure(diagnosis),
        "caution": lambda: diagnosis.caution,
        "group": lambda: KINDS[cause.kind].group if cause and cause.kind in KINDS else "",
        "literature": lambda: KINDS[cause.kind].source if cause and cause.kind in KINDS else "",
        "since": lambda: presentation.since_of(cause) if cause else "",
        "evidence": lambda: presentation.evidence_of(diagnosis, cause) if cause else [],
        "sick": lambda: sick,
        "sick_score": lambda: _run_cell(diagnosis, sick) if sick else None,
        "not_finite": lambda: sick is not None and not all(map(math.isfinite, sick.losses)),
        "profile": lambda: diagnosis.profile,
        "has_zeros": lambda: any(value == 0 for values in diagnosis.profile.values() for value in values.values()),
        "charts": lambda: draw_charts(shown, parts),
        "page_data": lambda: embedded_json(
            script_data(charts.COLOURS if shown["cure"] else (), charts.COLOURS, shown) | {"raw": raw()}
        ),
        "left_out": lambda: (raw() or {"left_out": ""})["left_out"],
        "has_blamed": lambda: any(
            charts.is_part_of(name, cause.where) for values in diagnosis.profile.values() for name in values if cause
        ),
        "is_loss": lambda: presentation.is_loss(diagnosis),
        "score_name": lambda: diagnosis.score_name,
        "diverged": lambda: any(run.ending == "diverged" for run in (*diagnosis.sick[1:], *diagnosis.cured)),
        "colours": lambda: charts.COLOURS,
        "seeds": lambda: _seed_rows(diagnosis),
        "replays": lambda: [_replay_row(diagnosis, replays) for replays in _grouped(diagnosis.replays)],
        "others": lambda: [
            (finding.severity, presentation.sentence_of(diagnosis, finding))
            for finding in further
            if finding.severity != "note"
        ],
        "notes": lambda: [
            presentation.sentence_of(diagnosis, finding) for finding in further if finding.severity == "note"
        ],
        "effort": lambda: presentation.effort(diagnosis),
        "command": lambda: command or f"thalweg.diagnose(..., seeds={len(diagnosis.seeds)}, steps={diagnosis.steps})",
        "environment": lambda: environment.describe(["cpu"]),
        "none_mark": lambda: _NONE,
        "version": lambda: thalweg.__version__,
    }


def _evidence_charts(diagnosis: Diagnosis, parts: Parts) -> list[Chart]:
    """Return the charts of the training as it is; one that cannot be made is left out, and noted."""
    cause = diagnosis.cause
    where, since = (cause.where, cause.since) if cause else (None, 0)
    drawn = []
    if diagnosis.sick and diagnosis.sick[0].losses:
        drawn.append(parts.make("the chart of the loss", partial(charts.loss_chart, diagnosis.sick[0], since), None))
    for place, (quantity, values) in enumerate(diagnosis.profile.items(), 1):
        if values:
            profile = partial(charts.profile_chart, f"profile-{place}", quantity, values, where)
            drawn.append(parts.make(f"the profile of {quantity}", profile, None))
    return [chart for chart in drawn if chart is not None]


def _cure_charts(diagnosis: Diagnosis, parts: Parts) -> list[Chart]:
    """Return a chart for each fresh seed; one that cannot be made is left out, and noted."""
    pairs = _pairs_of_runs(diagnosis)
    sign = -1.0 if presentation.is_loss(diagnosis) else 1.0
    runs = [run for pair in pairs for run in pair]
    axis = parts.make(
        "the axis of the scores", lambda: charts.score_axis(runs, diagnosis.score_name, sign) if runs else None, None
    )
    drawn = [
        parts.make(f"the chart of seed {after.seed}", partial(charts.cure_chart, before, after, axis, sign), None)
        for before, after in pairs
        if axis is not None
    ]
    return [chart for chart in drawn if chart is not None]


def _pairs_of_runs(diagnosis: Diagnosis) -> list[tuple[RunRecord, RunRecord]]:
    """Return the runs of the fresh seeds, as the training is and with the cure."""
    sick = {run.seed: run for run in diagnosis.sick}
    return [(sick[run.seed], run) for run in diagnosis.cured if run.seed in sick]


def _seed_rows(diagnosis: Diagnosis) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    cure = diagnosis.cure
    if cure is None:
        return []
    cell = partial(_score_cell, diagnosis)
    return [
        (seed, cell(before), cell(after))
        for seed, before, after in zip(cure.seeds, cure.before, cure.after, strict=True)
    ]


def _grouped(replays: Iterable[Replay]) -> list[list[Replay]]:
    """Return replays in groups that share a run: one change may cure several causes."""
    groups: dict[tuple[str, int], list[Replay]] = {}
    for replay in replays:
        groups.setdefault((replay.change, id(replay.run)), []).append(replay)
    return list(groups.values())


def _replay_row(diagnosis: Diagnosis, replays: Sequence[Replay]) -> dict[str, Any]:
    """Return the values of the replays that share a run."""
    cure, first = diagnosis.cure, replays[0]
    return {
        "change": first.change,
        "kind": "; ".join(dict.fromkeys(presentation.title_of(replay.kind) for replay in replays)),
        "where": ", ".join(dict.fromkeys(replay.where for replay in replays if replay.where)) or _NONE,
        "score": _run_cell(diagnosis, first.run),
        "gain": {
            "text": f"{100 * first.gain:.0f} %" if math.isfinite(first.gain) else _NONE,
            "number": sortable(first.gain),
        },
        "result": presentation.replay_result(first),
        "is_cure": cure is not None
        and any(replay.change == cure.name and replay.kind == cure.kind for replay in replays),
    }


def _run_cell(diagnosis: Diagnosis, run: RunRecord) -> dict[str, str]:
    """Return the last score of a run as a cell of a table; a dash if it has none."""
    if run.ending == "failed" or not run.scores:
        return {"text": _NONE, "number": ""}
    return _score_cell(diagnosis, presentation.last_score(run))


def _score_cell(diagnosis: Diagnosis, score: float) -> dict[str, str]:
    """Return a score as text, and as the number by which the table is sorted."""
    return {
        "text": presentation.score_text(diagnosis, score),
        "number": sortable(presentation.shown_score(diagnosis, score)),
    }
