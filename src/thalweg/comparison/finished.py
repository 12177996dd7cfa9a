"""Comparison: the results of a comparison, read from its store; also of one that was interrupted."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from thalweg.comparison.failures import Failure, error_without_values, failures_of, losses_of
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.presentation import overview
from thalweg.comparison.presentation.plain_results import comparison_json
from thalweg.comparison.presentation.trial_table import TrialTable
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.checks.same_value import MAX_CHANCE, find_same_value
from thalweg.comparison.results.checks.softening import Softening, softened, softening_of
from thalweg.comparison.results.environment import device_of, mixed_hardware
from thalweg.comparison.results.functions.equal_seeds import EqualSeeds, find_equal_seeds
from thalweg.comparison.results.half_sample_check import half_sample_check
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.scoring import plan_covering
from thalweg.comparison.results.storage.trials import StoredTrials
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.stored_findings import plan_in_ranking, stored_findings
from thalweg.comparison.results.summary import Summary, summarize
from thalweg.comparison.results.terms import name_of_metric, name_of_untrained, terms_of
from thalweg.comparison.results.verdict import Verdict, judge, run_state
from thalweg.errors import StoreError
from thalweg.parts import Parts
from thalweg.report_writer import load_report_writer


class Comparison:
    """A finished comparison, read from its store.

    Attributes:
        store: The store that holds it.
        record: The stored facts: task, contenders, plan and environment.
        parts: Makes the parts of the result, and knows those that could not be made.

    Example:
        >>> from thalweg.comparison import compare
        >>> comparison = compare("quadratic", ["gd", "adam"], budget="4trials", workers=1)
        >>> Comparison(comparison.store, comparison.record).metric
        'training height'
    """

    def __init__(self, store: Store, record: ComparisonRecord, *, is_running: bool = False) -> None:
        """Open a comparison.

        Args:
            store: The store that holds it.
            record: The comparison, from ``Store.find``.
            is_running: True if it is still running: its verdict then says so.

        Raises:
            StoreError: If the comparison is not finished, and none of its trainings is stored.
        """
        if record.finished is None and not store.read_trials(record.id).trials:
            raise StoreError(
                f"{store.path}: a training of the comparison on {record.workload.name} must be stored, and none is. "
                "Run the same compare command again to resume it."
            )
        self.store = store
        self._is_running = is_running
        self.parts = Parts(self._find_losses)
        self.record = record  # the trainings are found by its number
        plan = plan_covering(record.plan, self.trainings)
        plan = plan if record.finished is not None else plan_in_ranking(plan, self.trainings)
        self.record = replace(record, plan=plan)

    __repr__ = overview.text_of
    _repr_html_ = overview.html_of

    @property
    def plan(self) -> ComparisonPlan:
        """The plan, made before the first trial, with the scale that the measured values require."""
        return self.record.plan

    @cached_property
    def _stored(self) -> StoredTrials:
        return self.store.read_trials(self.record.id)

    def _find_losses(self) -> Iterator[tuple[str, Exception]]:
        """Yield the parts that are missing; without a value of any contender, a finished comparison has no result."""
        yield from losses_of(self.store, self._stored)
        if self.record.finished is not None and not self._has_value:
            yield "a result", error_without_values(self.trainings, self.plan.target)

    @property
    def trainings(self) -> list[TrialRecord]:
        """All stored trainings."""
        return self._stored.trials

    @cached_property
    def failures(self) -> list[Failure]:
        """The errors that trainings raised, the most frequent first. The same call tries them again, unless final."""
        return failures_of(self.trainings)

    @cached_property
    def findings(self) -> Findings:
        """The decisions that follow from the stored trials, by the same procedure that requested them."""
        return stored_findings(self.record, self.trainings)

    @cached_property
    def equal_seeds(self) -> EqualSeeds | None:
        """The settings whose seeds all give the same values; None if any setting's seeds differ."""
        return find_equal_seeds(self.trainings)

    @cached_property
    def contenders(self) -> list[Summary]:
        """The results of each contender, in order of value: the leader first, then those with as many seeds."""
        described = {contender.name: contender for contender in self.record.contenders}
        names = overview.names_from_the_leader(self.findings)
        return overview.in_order_of_value(
            summarize(described[name], self.trainings, self.plan, self.findings) for name in names
        )

    @cached_property
    def verdict(self) -> Verdict:
        """The statements that the evidence allows."""
        terms = terms_of(self.record, self.findings.race, self.contenders)
        values = {summary.name: summary.value for summary in self.contenders}
        is_one_seed = self.equal_seeds is not None
        state = run_state(
            self.record,
            self.trainings,
            is_one_seed=is_one_seed,
            is_running=self._is_running,
            same_value=self._same_value,
            is_stored=self.store.path is not None,
        )
        return softened(judge(self.findings, values, terms, state), self.record, self.contenders)

    @property
    def _has_value(self) -> bool:
        """True if any contender has a value; of trainings that have not ended, if a report tells which was ahead."""
        if self.verdict.settled == "unended":
            return bool(self.verdict.tied)
        return any(summary.value.lost < summary.value.count for summary in self.contenders)

    @cached_property
    def softening(self) -> Softening | None:
        """The reason why the verdict is not settled although the race is; None if there is none."""
        return softening_of(self.verdict, self.record, self.contenders)

    @property
    def _same_value(self) -> str:
        """The value that all settings of the search gave; empty if they differ, or if chance may have done that."""
        searched = [trial for summary in self.contenders for trial in summary.trials["search"]]
        value = find_same_value(searched, self.plan.selected_on) if len(searched) > MAX_CHANCE else None
        return "" if value is None or self.plan.target is not None else f"{value:.4g}"

    def trials(self) -> TrialTable:
        """Return all stored trainings as a table: a list of ``TrialRecord`` with ``to_rows()`` and ``to_pandas()``."""
        return TrialTable(self.trainings).in_order()

    @property
    def metric(self) -> str:
        """The name of the values, such as ``test cross-entropy``."""
        return name_of_metric(self.record)

    @property
    def margin(self) -> str:
        """The difference that is too small to matter, in words: ``3 %``, or ``0.003``."""
        return terms_of(self.record, self.findings.race, self.contenders).margin

    @property
    def device(self) -> str:
        """The hardware that trained and the reason, as a phrase; empty if there was nothing to choose."""
        return device_of(self.plan, self.trainings)

    @property
    def half_sample_check(self) -> list[str]:
        """The results of half of the studies and of half of the seeds, in sentences; none if all seeds are alike."""
        return [] if self.equal_seeds is not None else half_sample_check(self.findings)

    @property
    def cautions(self) -> list[str]:
        """Facts that a reader should know before trusting the verdict, in sentences."""
        stated = cautions(self.record, self.contenders, self.verdict, name_of_untrained(self.record), self.equal_seeds)
        return [*stated, *mixed_hardware(self.trainings), *self._stored.caution]

    @property
    def code(self) -> str:
        """The lines of code for the recommended contender; empty if none is recommended."""
        return overview.code_of(self)

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain JSON. Numbers that are not finite become None.

        A part that cannot be made is empty, and ``missing_parts`` says why.
        """
        return comparison_json(self)

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report, one self-contained HTML file.

        Args:
            path: The file to write.
            overwrite: True replaces a file that is no report of thalweg.

        Returns:
            The path of the file.

        Raises:
            StoreError: If the file cannot be written, or the installed package declares no report writer.
        """
        return load_report_writer("comparison")(self, path, **({"overwrite": True} if overwrite else {}))
