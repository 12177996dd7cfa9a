"""Raw numbers: all trainings of a page as compact JSON, which the script of the page turns into files."""

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from thalweg.comparison.presentation.trial_table import TrialTable
from thalweg.comparison.results.records import TrialRecord
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.presentation import shown_score
from thalweg.diagnosis.run_record import RunRecord
from thalweg.parts import as_plain_json

MAX_BYTES = 3_000_000  # of the raw numbers of a page: with the script and the charts a page stays below 5 MB
# In JSON these stand in texts alone. Others that hide are no ASCII, and written as escapes anyway.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\x7f"}
_CURVE_LIMITS = (None, 40, 10, 2)  # evaluations of a curve that are kept, tried in this order
_LOSS_LIMITS = (None, 500, 50, 5)


def raw_numbers(
    trainings: Sequence[TrialRecord], results: dict[str, Any], *, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the results and all trainings, with their curves, as plain JSON.

    If they do not fit into a page, curves are thinned first and then the last trainings are left out; ``left_out``
    says so.

    Args:
        trainings: The trainings. Their order is that of the numbers in the charts.
        results: The results as ``to_json`` returns them.
        tasks: The task of each training of a suite.
    """
    rows = TrialTable(trainings).to_rows()
    if tasks:
        rows = [{"task": task, **row} for task, row in zip(tasks, rows, strict=True)]
    names = list(rows[0]) if rows else []
    all_rows = [[row[name] for name in names] for row in rows]
    for limit in _CURVE_LIMITS:
        curves = [_curve(trial, limit) for trial in trainings]
        raw = {
            "results": results,
            "columns": names,
            "rows": all_rows,
            "curves": curves,
            "left_out": _thinned_note(limit),
        }
        if size_of(raw) <= MAX_BYTES:
            return raw
    kept = len(rows)
    while kept and size_of(raw) > MAX_BYTES:
        kept = kept * 2 // 3
        raw |= {"rows": all_rows[:kept], "curves": []}
    raw["left_out"] = f"This page holds {kept:,} of {len(rows):,} trainings, without curves. The store has all of them."
    return raw


def numbers_of_runs(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as plain JSON, with a row for each step of each of its runs.

    If the rows do not fit into a page, losses are thinned; ``left_out`` says so.

    Args:
        diagnosis: The diagnosis.
    """
    results = diagnosis.to_json()
    for run in (*results["sick"], *(replay["run"] for replay in results["replays"]), *results["cured"]):
        del run["losses"], run["scores"]  # the rows have them
    runs = {id(run): run for run in (*diagnosis.sick, *(replay.run for replay in diagnosis.replays), *diagnosis.cured)}
    for limit in _LOSS_LIMITS:
        raw = {
            "results": results,
            "columns": ["change", "seed", "step", "training loss", diagnosis.score_name],
            "rows": [row for run in runs.values() for row in _steps_of(diagnosis, run, limit)],
            "left_out": ""
            if limit is None
            else f"This page holds {limit} losses of each run. The JSON of thalweg doctor --json has all of them.",
        }
        if size_of(raw) <= MAX_BYTES:
            break
    return raw


def _steps_of(diagnosis: Diagnosis, run: RunRecord, limit: int | None) -> list[list[Any]]:
    """Return the rows of a run: name, seed, step, loss and score as people know it. Some steps have no score."""
    steps: Sequence[int] = range(1, len(run.losses) + 1)
    if limit is not None and len(steps) > limit:
        steps = [steps[round(k * (len(steps) - 1) / (limit - 1))] for k in range(limit)]
    scores = {step: shown_score(diagnosis, score) for step, score in run.scores}
    return [
        [
            run.name,
            run.seed,
            step,
            _short(run.losses[step - 1]) if step in steps else None,
            _short(scores.get(step, math.nan)),
        ]
        for step in sorted({*steps, *scores})
    ]


def size_of(value: Any) -> int:
    """Return the bytes of a value as JSON."""
    return len(embedded_json(value).encode())


def embedded_json(value: Any) -> Markup:
    """Return a value as JSON that can stand in an element of a page: no text of it ends the element or hides.

    Args:
        value: The value. Numbers that are not finite become null.
    """
    text = json.dumps(as_plain_json(value), ensure_ascii=True, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))  # noqa: S704  (as the docstring says)


def _curve(trial: TrialRecord, limit: int | None) -> list[list[float | None]]:
    """The evaluations of a training: step, train, validation, test, seconds; only of a curve."""
    evaluations = trial.result.evaluations
    if len(evaluations) < 2:
        return []
    if limit is not None and len(evaluations) > limit:
        evaluations = [evaluations[round(k * (len(evaluations) - 1) / (limit - 1))] for k in range(limit)]
    return [
        [
            evaluation.step,
            *map(_short, (evaluation.train, evaluation.validation, evaluation.test)),
            _short(evaluation.seconds),
        ]
        for evaluation in evaluations
    ]


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _thinned_note(limit: int | None) -> str:
    return "" if limit is None else f"The curves of this page have {limit} points each. The store has all of them."
