"""The tables of a suite and its sentences: the same on a terminal, in Python and in a notebook."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol

from thalweg.comparison.presentation.overview import FinishedComparison
from thalweg.comparison.presentation.tables import Column, Table
from thalweg.comparison.results.aggregate import Aggregate
from thalweg.comparison.results.terms import worse, worse_interval
from thalweg.errors import ThalwegError, printable

_MATRIX_TITLE = "Worse than the best contender of the task by (~: not shown to be worse)"
_MEANS_TITLE = "Interquartile mean over tasks and seeds"


class TaskResult(Protocol):
    """The part of a ``Standing`` that the table of a suite shows."""

    @property
    def cell(self) -> str: ...


class FinishedSuite(Protocol):
    """The part of a ``Suite`` that its tables and sentences are made of."""

    @property
    def comparisons(self) -> Mapping[str, FinishedComparison]: ...
    @property
    def failures(self) -> Mapping[str, ThalwegError]: ...
    @property
    def pending(self) -> Sequence[str]: ...
    @property
    def matrix(self) -> Mapping[str, Mapping[str, TaskResult]]: ...
    @property
    def contenders(self) -> list[str]: ...
    @property
    def aggregate(self) -> Aggregate | None: ...
    @property
    def headline(self) -> str: ...
    @property
    def how_sure(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def cautions(self) -> list[str]: ...


def tables_of(suite: FinishedSuite) -> list[tuple[str, Table]]:
    """Return the tables of a suite, each with its title: tasks and contenders, and the means over all tasks.

    A table without rows is not among them.
    """
    tables = []
    if suite.comparisons:
        tables.append((_MATRIX_TITLE, _matrix(suite)))
    if suite.aggregate is not None:
        tables.append((_MEANS_TITLE, _means(suite.aggregate)))
    return tables


def _matrix(suite: FinishedSuite) -> Table:
    rows = suite.matrix.values()
    columns = [
        Column(name, [standings[name].cell if name in standings else "–" for standings in rows])
        for name in suite.contenders
    ]
    verdicts = [suite.comparisons[task].verdict.headline for task in suite.matrix]
    return Table(
        [Column("task", list(suite.matrix), "left"), *columns, Column("verdict", verdicts, "left", folds=True)]
    )


def _means(aggregate: Aggregate) -> Table:
    ratios = aggregate.ratio
    return Table(
        [
            Column("contender", list(ratios), "left"),
            Column("worse by", [worse(ratio.mean - 1) for ratio in ratios.values()]),
            Column("95 % interval", [worse_interval(ratio.low - 1, ratio.high - 1) for ratio in ratios.values()]),
        ]
    )


def sentences_of(suite: FinishedSuite) -> list[str]:
    """Return the result, how sure it is, the errors of tasks, and the cautions."""
    failures = [f"{task} failed: {error}" for task, error in suite.failures.items()]
    return [suite.text, suite.how_sure, *failures, *suite.cautions]


def code_of(suite: FinishedSuite) -> str:
    """Return the lines to paste for the recommended contender of each task, under the name of the task."""
    codes = {task: comparison.code for task, comparison in suite.comparisons.items()}
    return printable("\n\n".join(f"# {task}\n{code}" for task, code in codes.items() if code), keep="\n")


def text_of(suite: FinishedSuite, width: int = 120) -> str:
    """Return the ``repr`` of a suite: what it compared, the headline, the tables, the sentences and the code.

    Args:
        suite: A suite.
        width: The characters in a line.
    """
    parts = [f"{_title(suite)}\n{suite.headline}"]
    parts += [f"{title}\n{table.text(width)}" for title, table in tables_of(suite)]
    parts.append("\n".join(textwrap.fill(sentence, width) for sentence in sentences_of(suite)))
    return printable("\n\n".join(filter(None, [*parts, code_of(suite)])), keep="\n")


def html_of(suite: FinishedSuite) -> str:
    """Return a suite as HTML for a notebook, every text escaped."""
    tables = "".join(f"<p>{html.escape(title)}</p>{table.html()}" for title, table in tables_of(suite))
    paragraphs = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences_of(suite))
    heading = f"<p>{html.escape(_title(suite))}<br><b>{html.escape(suite.headline)}</b></p>"
    code = f"<pre>{html.escape(code_of(suite))}</pre>" if code_of(suite) else ""
    return printable(f"{heading}{tables}{paragraphs}{code}", keep="\n")


def _title(suite: FinishedSuite) -> str:
    tasks = len(suite.comparisons) + len(suite.failures) + len(suite.pending)
    names = len(suite.contenders)
    contenders = "1 contender" if names == 1 else f"{names} contenders"
    return f"Suite of {'1 task' if tasks == 1 else f'{tasks} tasks'}: {contenders}"
