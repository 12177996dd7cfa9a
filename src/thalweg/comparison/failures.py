"""Failures: trainings that raised an error. They are shown, tried again, and stop a run in which most fail alike.

A training that diverges is a result: its settings are bad. A training that raises tells of a fault, in the task, in the
contender or in the world. If many fail alike in a row, a training that has succeeded before is repeated. If this fails
too, the fault lies in the world: a file or a service is gone. The run stops, and the same command tries again. Settings
and parameters that an optimizer refuses are refused again: these failures are final.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.storage.trials import StoredTrials
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.stored_findings import stored_findings
from thalweg.comparison.results.terms import listed
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.target import Target
from thalweg.errors import StoreError, TaskError

FIRST_CHECK = 3  # trainings that failed alike in a row, before one that had succeeded is repeated
MIN_FOR_MAJORITY = 10  # trainings of a run, before most of them can be said to fail

_LINE = re.compile(r"\(at ([^()]+:\d+)\)")


@dataclass(frozen=True)
class Failure:
    """Trainings that failed alike: with one kind of error, at one line.

    Attributes:
        error: The error of the first of them, with the user's file and line.
        count: The number of these trainings.
        contenders: Their contenders.
        traceback: The end of the traceback of the first; empty if the store has none.
        is_final: True if a repetition fails alike, so that nothing tries them again.
    """

    error: str
    count: int
    contenders: list[str]
    traceback: str
    is_final: bool = False

    @property
    def text(self) -> str:
        """The failure as a sentence."""
        trainings = "1 training" if self.count == 1 else f"{self.count} trainings"
        return f"{trainings} of {', '.join(self.contenders)} failed: {self.error}"

    @property
    def note(self) -> str:
        """The failure with what follows from it, in sentences."""
        them = "it" if self.count == 1 else "them"
        if self.is_final:
            return f"{self.text}. A repetition fails alike, so the same command does not try {them} again."
        return f"{self.text}. The same command tries {them} again."


def signature_of(message: str) -> tuple[str, str]:
    """Return the kind of an error and its line, without a line its text without numbers: alike errors share it.

    Args:
        message: The message of a failed training.

    Example:
        >>> signature_of("OSError: file 17 is gone (at train.py:3)")
        ('OSError', 'train.py:3')
    """
    kind, _, text = message.partition(":")
    lines = _LINE.findall(message)
    return kind, lines[-1] if lines else re.sub(r"\d+", "#", text)


def failures_of(trials: Iterable[TrialRecord]) -> list[Failure]:
    """Return the failures among trials, the most frequent first.

    Args:
        trials: Stored trials.
    """
    groups: dict[tuple[str, str, bool], list[TrialRecord]] = {}
    for trial in trials:
        if trial.result.status == "failed":
            key = *signature_of(trial.result.message), trial.result.is_final
            groups.setdefault(key, []).append(trial)
    failures = [
        Failure(
            error=group[0].result.message,
            count=len(group),
            contenders=list(dict.fromkeys(trial.contender for trial in group)),
            traceback=next((trial.result.traceback for trial in group if trial.result.traceback), ""),
            is_final=group[0].result.is_final,
        )
        for group in groups.values()
    ]
    return sorted(failures, key=lambda failure: -failure.count)


def losses_of(store: Store, stored: StoredTrials) -> Iterator[tuple[str, Exception]]:
    """Yield the parts that a result lacks, with the errors: damaged trainings, the store, and most trainings.

    Args:
        store: The store.
        stored: The trainings that it holds.
    """
    if stored.damaged:
        yield "a part of the trainings", StoreError(store.sentence_of(stored.damaged))
    if store.damage:
        yield "a part of the store", StoreError(f"{store.label}: {store.damage}")
    failures = failures_of(stored.trials)
    count = sum(failure.count for failure in failures)
    if 2 * count > len(stored.trials):
        yield "a result of most trainings", TaskError(f"{count} of {len(stored.trials)} failed. {failures[0].text}")


def error_without_values(trials: Sequence[TrialRecord], target: Target | None) -> TaskError:
    """Return the error of a finished comparison in which no contender has a value.

    Args:
        trials: All its stored trainings.
        target: The target whose time is compared; None if final values are.
    """
    words = {"ok": "ended" if target is None else "missed the target", "stopped": "had not ended", "pruned": "stopped"}
    counts = Counter(trial.result.status for trial in trials).most_common()
    ends = listed([f"{count} {words.get(status, status)}" for status, count in counts])
    cure = "Find the cause with thalweg doctor."
    if target is not None:
        cure = "Set another target, or train longer."
    elif all(trial.result.status == "stopped" for trial in trials):
        cure = "Give a larger budget, or shorter trainings."
    return TaskError(f"a contender must have a value, and none has; of {len(trials)} trainings, {ends}. {cure}")


def is_tried_again(trial: TrialRecord) -> bool:
    """Return True if a stored training failed with an error that may have passed."""
    return trial.result.status == "failed" and not trial.result.is_final


def reopen_if_incomplete(store: Store, record: ComparisonRecord) -> bool:
    """Return True if a comparison is not finished, or trainings of it are damaged, missing or to be tried again.

    It is no longer finished then. Of a time budget, the time that these trainings take is given back.

    Args:
        store: The store that holds it.
        record: The comparison.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    if record.finished is None:
        return True
    stored = store.read_trials(record.id)
    is_complete = not stored.damaged and not any(map(is_tried_again, stored.trials))
    if is_complete:
        try:
            stored_findings(record, stored.trials)
        except StoreError:  # a training is missing
            is_complete = False
    if not is_complete:
        store.reopen(record.id, elapsed_s=max(0.0, store.elapsed_s(record.id) - _lost_s(record, stored)))
    return not is_complete


def _lost_s(record: ComparisonRecord, stored: StoredTrials) -> float:
    """The seconds that trainings take in the place of those that failed or are damaged."""
    lost = len(stored.damaged) + sum(map(is_tried_again, stored.trials))
    seconds = [trial.result.seconds for trial in stored.trials if trial.result.status != "failed"]
    return lost * (fmean(seconds) if seconds else 0.0) / record.plan.num_workers


def stored_by_outcome(
    store: Store, record: ComparisonRecord, notify: Callable[[str], None]
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Return the stored trials that are not trained again, and those that failed and are; damaged ones are deleted.

    Those that failed stay in the store until others take their place: an error is shown as long as nothing replaced it.

    Args:
        store: The store that holds the comparison.
        record: The comparison.
        notify: Called with a sentence about those that are trained again.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    stored = store.read_trials(record.id)
    if stored.damaged:
        notify(f"{len(stored.damaged)} stored trainings are damaged and are trained again. {stored.damaged[0].text}")
        store.discard(stored.damaged)
    failed = [trial for trial in stored.trials if is_tried_again(trial)]
    for failure in failures_of(failed):
        notify(f"trying again: {failure.text}")
    return [trial for trial in stored.trials if not is_tried_again(trial)], failed


class FailureMonitor:
    """Sees the trainings of a run as they end, and stops the run if most fail alike.

    Args:
        workload_name: The name of the task or the training function.
        contenders: The names of the contenders.
        kept: The trials of earlier runs.
        notify: Called with a sentence when a new kind of failure appears.
    """

    def __init__(
        self, workload_name: str, contenders: Sequence[str], kept: Sequence[TrialRecord], notify: Callable[[str], None]
    ) -> None:
        self._workload_name, self._contenders, self._notify = workload_name, contenders, notify
        # The last success of each contender, in order; and the failures of earlier runs that are not tried again.
        self._successes = {trial.contender: trial for trial in kept if trial.result.status != "failed"}
        self._final = [trial for trial in kept if trial.result.status == "failed"]
        self._trained: list[TrialRecord] = []  # in this run
        self._streak: list[TrialRecord] = []  # those that failed alike since another ended otherwise
        self._next_check = FIRST_CHECK
        self._known: set[tuple[str, str]] = set()
        self._awaited = 0  # proofs that still run
        self._failing: list[TrialRecord] = []  # the failures that the proofs are about

    def see(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return trials as they are stored: with a traceback for the first failure of each kind only.

        Args:
            trials: The trials that have just ended.
        """
        seen = []
        for trial in trials:
            result, signature = trial.result, signature_of(trial.result.message)
            if result.status == "failed":
                if signature in self._known:
                    trial = replace(trial, result=replace(result, traceback=""))
                else:
                    self._known.add(signature)
                    self._notify(f"{trial.contender}: a training failed: {result.message}")
                if self._streak and signature_of(self._streak[0].result.message) != signature:
                    self._streak = []
                self._streak.append(trial)
            else:
                self._streak = []
                self._successes.pop(trial.contender, None)
                self._successes[trial.contender] = trial
            seen.append(trial)
        self._trained += seen
        return seen

    def proofs(self) -> list[TrialRecord | str]:
        """Return what must be trained now to see whether trainings still succeed; mostly nothing.

        If trainings fail alike, it is the last success of a contender that does not fail; else the defaults of all
        contenders that were not tried yet; else the last success of all. A name stands for defaults.

        Raises:
            TaskError: If no training has ever succeeded, of any contender.
        """
        count = max(len(self._streak), self._majority())
        if self._awaited or count < self._next_check:
            return []
        self._next_check = 2 * count
        self._failing = self._streak or [trial for trial in self._trained if trial.result.status == "failed"]
        failing = {trial.contender for trial in self._failing}
        successes = [trial for name, trial in self._successes.items() if name not in failing]
        trained = {trial.contender for trial in self._trained}
        untried = [name for name in self._contenders if name not in trained]
        proofs: list[TrialRecord | str] = [*(successes[-1:] or untried or list(self._successes.values())[-1:])]
        self._awaited = len(proofs)
        if not proofs:
            raise self._error("no training succeeds")
        return proofs

    def see_proof(self, contender: str, result: TrainingResult) -> None:
        """Take the result of a proof.

        Args:
            contender: The contender that was trained.
            result: How the training ended.

        Raises:
            TaskError: If all proofs failed: the fault lies in the world, and all trainings would fail on.
        """
        if result.status != "failed":
            self._awaited = 0  # the fault lies in the contenders that fail
        elif self._awaited:
            self._awaited -= 1
            if not self._awaited:
                raise self._error(f"a training of {contender} that should succeed fails too")

    def _majority(self) -> int:
        """The number of trainings of this run that failed alike, if they are most of it."""
        counts = Counter(signature_of(t.result.message) for t in self._trained if t.result.status == "failed")
        most = max(counts.values(), default=0)
        return most if len(self._trained) >= MIN_FOR_MAJORITY and 2 * most > len(self._trained) else 0

    def check_that_one_succeeded(self) -> None:
        """Raise TaskError if every training so far failed: the fault lies in the task then."""
        failed = [*self._final, *self._trained]
        if failed and not self._successes:
            raise TaskError(
                f"{self._workload_name}: at least one training must succeed, and all {len(failed)} failed, the first "
                f"with {_error_of(failed[0])}. {_cure_of(failed)}"
            )

    def _error(self, reason: str) -> TaskError:
        return TaskError(
            f"{self._workload_name}: trainings must run without an error, and {len(self._failing)} of "
            f"{len(self._trained)} failed with {_error_of(self._failing[0])}; {reason}. Results so far are stored. "
            f"{_cure_of(self._failing)}"
        )


def _cure_of(failed: Sequence[TrialRecord]) -> str:
    """Return the sentence that says what to do about trainings that failed."""
    if any(map(is_tried_again, failed)):
        return "Run the same command again when it is mended: it tries the failed trainings again."
    return "A repetition fails alike: choose other contenders, or change the code."


def _error_of(trial: TrialRecord) -> str:
    """The message of a failed training, without a full stop: a sentence goes on after it."""
    return trial.result.message.rstrip(".")
