"""Callbacks: functions that see each training as it ends, such as a log of your own, a CSV file or TensorBoard.

A callback is called with the ``TrialRecord`` of each training that has been stored. If it has a method
``finish(comparison)``, this is called at the end. An error of a callback is shown once. It stops no training and loses
no result.
"""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from thalweg.comparison.presentation.overview import FinishedComparison
from thalweg.comparison.presentation.trial_table import row_of
from thalweg.comparison.progress import Progress
from thalweg.comparison.results.records import TrialRecord
from thalweg.errors import MissingPackageError, SettingError, StoreError
from thalweg.tasks.user_code import describe, line_of_error

Callback = Callable[[TrialRecord], Any]
Result = TypeVar("Result")


class CallbackRunner:
    """Calls all callbacks, and shows the first error of each.

    Args:
        callbacks: The callbacks.
        watch: Gets the message of an error.

    Raises:
        SettingError: If one is no function.
    """

    def __init__(self, callbacks: Sequence[Callback], watch: Callable[[Progress], None]) -> None:
        for callback in callbacks:
            if not callable(callback):
                raise SettingError(
                    f"thalweg: a callback must be a function of a TrialRecord, got {type(callback).__name__}. "
                    "Pass def log(trial): ..."
                )
        self._callbacks, self._watch = list(callbacks), watch
        self._failed: set[int] = set()

    def __call__(self, trial: TrialRecord) -> None:
        """Call all callbacks with a training that has been stored."""
        for index, callback in enumerate(self._callbacks):
            self._call(index, lambda callback=callback: callback(trial))  # type: ignore[misc]  # bound at once

    def finish(self, comparison: Result) -> Result:
        """Call ``finish`` of all callbacks that have it, and return the comparison."""
        for index, callback in enumerate(self._callbacks):
            finish = getattr(callback, "finish", None)
            if callable(finish):
                self._call(index, lambda finish=finish: finish(comparison))  # type: ignore[misc]
        return comparison

    def _call(self, index: int, call: Callable[[], Any]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:
            if index in self._failed:
                return
            self._failed.add(index)
            line = line_of_error(error)
            where = f" (at {line})" if line else ""
            callback = self._callbacks[index]
            name = getattr(callback, "__name__", type(callback).__name__)
            message = f"callback {name} failed, got {describe(error)}{where}. The comparison goes on."
            self._watch(Progress("", "", message=message))


class CsvLog:
    """A callback that writes a line for each training into a CSV file, as soon as it has ended.

    Args:
        path: The file. It is made anew, with its folder.

    Raises:
        StoreError: If the file cannot be written.

    Example:
        >>> from thalweg.comparison import compare
        >>> comparison = compare(
        ...     "quadratic", ["sgd"], budget="2trials", workers=1, quiet=True, callbacks=[CsvLog("log.csv")]
        ... )  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._keys: list[str] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("")
        except OSError as error:
            raise StoreError(f"{path}: the log must be writable, got {error}. Choose another place.") from error

    def __call__(self, trial: TrialRecord) -> None:
        """Append a training. Its settings share a column, because each contender has others, and so do its metrics."""
        row = {key: value for key, value in row_of(trial).items() if not key.startswith(("settings.", "metrics."))}
        for key, values in (("settings", trial.settings), ("metrics", trial.result.metrics)):
            row[key] = " ".join(f"{name}={value}" for name, value in values.items())
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if not self._keys:
                self._keys = list(row)
                writer.writeheader()
            writer.writerow(row)


class TensorBoardLog:
    """A callback that writes each training to TensorBoard: its curves, and at the end the verdict.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, or a folder for one.

    Raises:
        MissingPackageError: If a folder is given and the package ``tensorboard`` is not installed.
    """

    def __init__(self, writer: Any) -> None:
        if isinstance(writer, str | Path):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingPackageError(
                    "thalweg: TensorBoardLog needs the package tensorboard, which is not installed. "
                    "Run pip install tensorboard, or use CsvLog."
                ) from error
            writer = SummaryWriter(str(writer))
        self.writer = writer
        self._counts: dict[str, int] = {}

    def __call__(self, trial: TrialRecord) -> None:
        """Write the final numbers under the number of the training, and the curve of a training that has one."""
        number = self._counts[trial.contender] = self._counts.get(trial.contender, -1) + 1
        row = row_of(trial)
        for split in ("train", "validation", "test"):
            if row[split] is not None:
                self.writer.add_scalar(f"{trial.contender}/{trial.stage}/{split}", row[split], number)
        for name, value in trial.result.metrics.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"{trial.contender}/{trial.stage}/{name}", value, number)
        for name, value in trial.settings.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"{trial.contender}/settings/{name}", value, number)
            else:
                self.writer.add_text(f"{trial.contender}/settings/{name}", str(value), number)
        if len(trial.result.evaluations) > 1:
            for evaluation in trial.result.evaluations:
                tag = f"{trial.contender}/{trial.stage}/seed {trial.seed}"
                self.writer.add_scalar(tag, evaluation.validation, evaluation.step)

    def finish(self, comparison: FinishedComparison) -> None:
        """Write the verdict as text, and close the writer's buffers."""
        self.writer.add_text("verdict", f"{comparison.verdict.headline} {comparison.verdict.text}")
        self.writer.flush()
