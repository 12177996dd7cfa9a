"""All trainings of a comparison as a table: for Python, for notebooks, and for pandas if it is installed."""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from thalweg.comparison.presentation.tables import Column, Table
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import STAGES
from thalweg.errors import MissingPackageError
from thalweg.parts import finite

MAX_ROWS_SHOWN = 20


class TrialTable(list[TrialRecord]):
    """The stored trainings of a comparison, a list of :class:`TrialRecord` that converts to rows.

    Example:
        >>> from thalweg.comparison import compare
        >>> trials = compare("quadratic", ["sgd"], budget="2trials", workers=1, quiet=True).trials()
        >>> {row["contender"] for row in trials.to_rows()}
        {'sgd'}
    """

    def in_order(self) -> "TrialTable":
        """Return the trainings by stage, contender, study, setting and seed."""
        order = {stage: place for place, stage in enumerate(STAGES)}
        return TrialTable(sorted(self, key=lambda trial: (order[trial.stage], *trial.key[1:])))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a flat dict for each training, all with the same keys. Numbers that are not finite become None.

        The keys are those of a record and of its result; each setting has a key such as ``settings.lr``, each further
        number that was recorded one such as ``metrics.f1``.
        """
        names = dict.fromkeys(name for trial in self for name in trial.settings)
        metrics = dict.fromkeys(name for trial in self for name in trial.result.metrics)
        return [row_of(trial, names, metrics) for trial in self]

    def to_pandas(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises:
            MissingPackageError: If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise MissingPackageError(
                "thalweg: to_pandas() needs pandas, which is not installed. Run pip install pandas, or use to_rows()."
            ) from error
        return pandas.DataFrame(self.to_rows())

    def __repr__(self) -> str:
        return self._table().text(120) + self._rest()

    def _repr_html_(self) -> str:
        return self._table().html() + (f"<p>{self._rest().strip()}</p>" if self._rest() else "")

    def _table(self) -> Table:
        rows = TrialTable(self[:MAX_ROWS_SHOWN]).to_rows()
        keys = [key for key in (rows[0] if rows else {}) if any(row[key] not in (None, "") for row in rows)]
        numbers = {key for key in keys if all(isinstance(row[key], int | float | None) for row in rows)}
        columns = [
            Column(key, [_text(row[key]) for row in rows], "right" if key in numbers else "left")
            for key in keys or ["trials"]
        ]
        return Table(columns)

    def _rest(self) -> str:
        hidden = len(self) - MAX_ROWS_SHOWN
        return f"\n… and {hidden:,} more; to_rows() has all" if hidden > 0 else ""


def row_of(trial: TrialRecord, names: Iterable[str] = (), metrics: Iterable[str] = ()) -> dict[str, Any]:
    """Return a training as a flat dict.

    Args:
        trial: The training.
        names: The settings that have a key. Defaults to those of the training.
        metrics: The further numbers that have a key. Defaults to those of the training.
    """
    result = trial.result
    return {
        "contender": trial.contender,
        "stage": trial.stage,
        "study": trial.study,
        "trial": trial.trial,
        "seed": trial.seed,
        "status": result.status,
        "train": finite(result.train),
        "validation": finite(result.validation),
        "test": finite(result.test),
        "test_error": finite(result.test_error),
        **{f"metrics.{name}": finite(result.metrics.get(name, math.nan)) for name in metrics or result.metrics},
        "seconds": finite(result.seconds),
        **{f"settings.{name}": trial.settings.get(name) for name in names or trial.settings},
        "message": result.message,
        "hardware": result.hardware,
    }


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
