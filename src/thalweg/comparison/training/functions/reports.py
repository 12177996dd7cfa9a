"""Reports: what a training function says of itself, checked and kept, and the result that follows."""

import math
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np

from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.errors import TaskError
from thalweg.tasks import TrainingFunction
from thalweg.tasks.measurement import as_number, best_index
from thalweg.tasks.user_code import task_error, user_line


def contradiction(who: str, name: str, statement: Any, known: Any, stated_at: str) -> TaskError:
    """Return the error for a report that says otherwise than an earlier one what its value is.

    Args:
        who: Name of the training function.
        name: ``maximize`` or ``metric_name``.
        statement: The direction or the name that the report states.
        known: That of earlier reports.
        stated_at: The line of the report, as `` (at file:line)``.
    """
    return TaskError(
        f"{who}: {name} must be the same in all reports of a comparison, got {statement!r} after {known!r}{stated_at}. "
        "Only values of one kind can be compared."
    )


class ReportLog:
    """The reports of one training of a function.

    Args:
        function: The training function. What it declares, a report need not say.
        after_report: Called after each report; it may end the training by raising.

    Attributes:
        evaluations: The reports so far, numbered from 1.
        maximize: True if higher values are better. None if nothing has said so yet.
        metric_name: Name of the reported value. Empty if nothing has said so yet.
    """

    def __init__(self, function: TrainingFunction, after_report: Callable[[Evaluation], None]) -> None:
        self._function, self._after_report = function, after_report
        self.maximize, self.metric_name = function.maximize, function.metric_name
        self.evaluations: list[Evaluation] = []
        self._has_test: list[bool] = []
        self._stated_at = ""
        self._start_s = monotonic()

    def report(
        self,
        value: Any,
        *,
        train: Any = math.nan,
        test: Any = None,
        maximize: bool | None = None,
        metric_name: str = "",
        **metrics: Any,
    ) -> None:
        """Keep one report: the function that a training function is passed.

        Args:
            value: The value that chooses among settings, on data that the function does not train on.
            train: The training loss.
            test: The value on data that no choice has seen. It evaluates the contenders; None: the value does.
            maximize: True if higher values are better. None leaves it to other reports; without any, lower is better.
            metric_name: Name of the value.
            **metrics: Further numbers to record.

        Raises:
            TaskError: If a value is no single number, or the direction or the name differs from what was said before.
        """
        self._agree("maximize", maximize, None)
        self._agree("metric_name", metric_name, "")
        number = as_number(value, "the value")
        self.evaluations.append(
            Evaluation(
                step=len(self.evaluations) + 1,
                train=as_number(train, "train"),
                validation=number,
                test=number if test is None else as_number(test, "test"),
                metrics={name: as_number(metric, name) for name, metric in metrics.items()},
                seconds=monotonic() - self._start_s,
            )
        )
        self._has_test.append(test is not None)
        self._after_report(self.evaluations[-1])

    report.__qualname__ = "report"  # as Python's messages name it

    def _agree(self, name: str, statement: Any, default: Any) -> None:
        """Take over what a report says of its value; raise TaskError if another one said otherwise before."""
        if statement is default or statement == default:
            return
        if default is None and isinstance(statement, np.bool_):
            statement = bool(statement)
        if not isinstance(statement, bool if default is None else str):
            must = "True or False" if default is None else "a text"
            raise TaskError(f"{self._function.name}: {name} must be {must}, got {statement!r:.80}{user_line()}.")
        known = getattr(self, name)
        if known not in (default, statement):
            raise contradiction(self._function.name, name, statement, known, user_line())
        if known == default:
            setattr(self, name, statement)
            self._stated_at = user_line()

    def result(self, seconds: float) -> TrainingResult:
        """Return the result of the training, which has ended.

        Args:
            seconds: Its duration.

        Raises:
            TaskError: If there is no report, or the best one lacks the test value that others have.
        """
        name, evaluations = self._function.name, self.evaluations
        if not evaluations:
            raise task_error(
                name, "the function must call report(value) at least once, and did not", "", where=self._function.line
            )
        index = len(evaluations) - 1
        if self._function.result == "best":
            values = [evaluation.validation for evaluation in evaluations]
            index = best_index(values, maximize=bool(self.maximize))
            if any(self._has_test) and not (self._has_test[index] and math.isfinite(evaluations[index].test)):
                self._check_test_of_best(index)
        counted = evaluations[index]
        status = "ok" if math.isfinite(counted.validation) and math.isfinite(counted.test) else "diverged"
        losses = (counted.train, counted.validation, counted.test)
        return self.described(
            TrainingResult(status, *losses, seconds=seconds, evaluations=evaluations, counted=index - len(evaluations))
        )

    def described(self, result: TrainingResult) -> TrainingResult:
        """Return a result with what the reports said of their value."""
        return replace(result, maximize=self.maximize, metric_name=self.metric_name, stated_at=self._stated_at)

    def _check_test_of_best(self, index: int) -> None:
        """Raise TaskError if other reports have a test value: it was left out where it counts."""
        pairs = zip(self.evaluations, self._has_test, strict=True)
        if any(has_test and math.isfinite(evaluation.test) for evaluation, has_test in pairs):
            raise TaskError(
                f"{self._function.name}: result='best' needs a test value with the best report, got none with report "
                f"{index + 1} of {len(self.evaluations)}. Pass test=... to each report."
            )


def check_direction(result: TrainingResult, *, maximize: bool, who: str = "report") -> None:
    """Raise TaskError if a training reported values of the other direction than the comparison.

    Args:
        result: The result of the training.
        maximize: The direction of the comparison.
        who: Name of the training function.
    """
    if result.maximize not in (None, maximize):
        raise contradiction(who, "maximize", result.maximize, maximize, result.stated_at)
