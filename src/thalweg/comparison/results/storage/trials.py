"""Trials as rows of the table of results, and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.storage.rows import DamagedRowError, finite, number
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.errors import shown

_UNREPORTED: dict[str, Any] = {"counted": -1, "maximize": None, "metric_name": ""}
_CURVE_SECONDS = "curve_s"
_FINAL = "final"
_STATUSES = ("ok", "diverged", "pruned", "stopped", "failed")


class DamagedRow(NamedTuple):
    """A stored training that cannot be read.

    Attributes:
        rowid: The number of its row in the file; None for all rows after a place where the file cannot be read.
        text: The training and what is wrong with it.
    """

    rowid: int | None
    text: str


class StoredTrials(NamedTuple):
    """The trainings of a comparison that a file holds.

    Attributes:
        trials: Those that can be read, ordered by study, trial and seed.
        damaged: The rows that cannot be read.
        unchecked: How many of ``trials`` have no checksum, because an older thalweg wrote them.
    """

    trials: list[TrialRecord]
    damaged: list[DamagedRow]
    unchecked: int

    @property
    def caution(self) -> list[str]:
        """A sentence if there are unchecked trainings."""
        if not self.unchecked:
            return []
        return [
            f"{self.unchecked} stored trainings have no checksum, because an older thalweg wrote them: a byte that "
            "changed there would not be noticed."
        ]


def values_of_trial(trial: TrialRecord) -> dict[str, Any]:
    """Return the values of the columns of a trial."""
    result = trial.result
    return {
        "contender": trial.contender,
        "stage": trial.stage,
        "study": trial.study,
        "trial": trial.trial,
        "seed": trial.seed,
        "settings": trial.settings,
        "status": result.status,
        "message": result.message,
        "train": float(result.train),
        "validation": float(result.validation),
        "test": float(result.test),
        "test_error": float(result.test_error),
        "seconds": float(result.seconds),
        "hardware": result.hardware or None,
        "traceback": result.traceback or None,
        "looks": [_look(evaluation) for evaluation in result.evaluations],
        "reported": _reported(result) or None,
        "optimizers": [use.to_json() for use in result.optimizers] or None,
    }


def _look(evaluation: Evaluation) -> list[Any]:
    look: list[Any] = [evaluation.step, finite(evaluation.train), finite(evaluation.validation)]
    test = None if evaluation.test == evaluation.validation else finite(evaluation.test)
    if test is None and not evaluation.metrics:
        return look
    return [*look, test, {name: finite(value) for name, value in evaluation.metrics.items()}]


def _reported(result: TrainingResult) -> dict[str, Any]:
    """The parts of a result that few trainings have: what reports said, the seconds of a curve, a final failure."""
    values = {"counted": result.counted, "maximize": result.maximize, "metric_name": result.metric_name}
    reported: dict[str, Any] = {name: value for name, value in values.items() if value != _UNREPORTED[name]}
    seconds = [finite(evaluation.seconds) for evaluation in result.evaluations]
    if len(seconds) > 1 and None not in seconds:  # of a curve
        reported[_CURVE_SECONDS] = [float(f"{value:.4g}") for value in seconds if value is not None]
    return reported | ({_FINAL: True} if result.is_final else {})


def _of_reported(stored: Any, num_evaluations: int) -> dict[str, Any]:
    values = {name: dict(stored).get(name, value) for name, value in _UNREPORTED.items()}
    if not isinstance(values["counted"], int) or not -max(1, num_evaluations) <= values["counted"] <= -1:
        raise DamagedRowError(f"its column reported must name an evaluation, got {shown(str(values['counted']))}")
    if not isinstance(values["maximize"], bool | None) or not isinstance(values["metric_name"], str):
        raise DamagedRowError("its column reported must hold a direction and a name")
    return values | {"is_final": dict(stored).get(_FINAL) is True}


def _evaluation(look: Any) -> Evaluation:
    step, train, validation, *more = look
    test, metrics = more or (None, {})
    metrics = {str(name): number(value) for name, value in dict(metrics).items()}
    return Evaluation(int(step), number(train), number(validation), number(test), metrics)


def _evaluations(looks: Any, reported: Any) -> list[Evaluation]:
    """The evaluations of a row; those of a curve with their seconds, which stand in another column."""
    evaluations = [_evaluation(look) for look in looks]
    seconds = dict(reported or {}).get(_CURVE_SECONDS)
    if seconds is None:
        return evaluations
    if len(seconds) != len(evaluations):
        raise DamagedRowError("its column reported must hold a time for each evaluation")
    return [replace(each, seconds=number(value)) for each, value in zip(evaluations, seconds, strict=True)]


def trial_of_values(row: Mapping[str, Any]) -> TrialRecord:
    """Return the trial of a decoded row.

    Args:
        row: The values, from ``rows.decode``.

    Raises:
        DamagedRowError: If its status is unknown, or its JSON has another shape.
    """
    try:
        if row["status"] not in _STATUSES:
            raise DamagedRowError(f"its status must be one of {', '.join(_STATUSES)}, got {shown(row['status'])}")
        result = TrainingResult(
            status=row["status"],
            train=number(row["train"]),
            validation=number(row["validation"]),
            test=number(row["test"]),
            test_error=number(row["test_error"]),
            seconds=row["seconds"],
            evaluations=_evaluations(row["looks"], row["reported"]),
            message=row["message"],
            **_of_reported(row["reported"] or {}, len(row["looks"])),
            hardware=row["hardware"] or "",
            traceback=row["traceback"] or "",
            optimizers=[OptimizerUse.from_json(use) for use in row["optimizers"] or ()],
        )
        settings = dict(row["settings"])
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedRowError(f"its JSON must be that of a training, got {shown(str(error))}") from None
    if not all(isinstance(value, bool | int | float | str | None) for value in settings.values()):
        raise DamagedRowError("its column settings must hold numbers and words")
    return TrialRecord(row["contender"], row["stage"], row["study"], row["trial"], row["seed"], settings, result)


def name_of_row(row: Mapping[str, Any]) -> str:
    """Return the name of the training of a row that may be damaged, for a message."""
    contender, stage, study, trial, seed = (
        shown(row.get(name), 40) for name in ("contender", "stage", "study", "trial", "seed")
    )
    return f"The training of {contender} (stage {stage}, study {study}, trial {trial}, seed {seed})"
