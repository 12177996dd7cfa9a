"""Replays: run a training again from a seed, as it is or with one change."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from thalweg.diagnosis.changes import Change
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.scores import (
    HELD_BACK,
    AgreementScorer,
    LossScorer,
    MetricScorer,
    ModelScorer,
    NoScorer,
)
from thalweg.diagnosis.run_record import RunRecord
from thalweg.diagnosis.run_training import Batch, Stop, TrainingRun, Watcher, fresh_run
from thalweg.diagnosis.training_source import TrainingSource
from thalweg.errors import DiagnosisError
from thalweg.tasks.training import Training

AS_IT_IS = "as it is"
# Shares of a run after which it is scored. The last ones count, averaged: a single evaluation is noisy.
SCORE_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

Scorer = ModelScorer | NoScorer


class Watch(Protocol):
    """Starts to watch a training."""

    def __call__(self, training: Training) -> AbstractContextManager[Watcher]:
        """Return the watcher of a training that has not begun."""


class Laboratory:
    """Runs a user's training again and again: same steps, same held-back batches, same moments of scoring.

    Args:
        source: Makes the trainings.
        steps: Steps of each run.
        clock: The clock of the diagnosis.

    Attributes:
        source: Makes the trainings.
        steps: Steps of each run.
        score_name: What runs are compared by.
        runs: Number of runs so far.
        comes_trained: True if the model was trained before; None if that is unknown.
    """

    def __init__(self, source: TrainingSource, steps: int, clock: Clock) -> None:
        self.source = source
        self.steps = steps
        self.score_name = ""
        self.runs = 0
        self.comes_trained: bool | None = None
        self._clock, self._limit_s = clock, clock.budget_s
        self._score_at = sorted({round(share * steps) for share in SCORE_SHARES})
        self._is_loss_usable: bool | None = None
        self._by_agreement = False

    def compare_by_agreement(self) -> None:
        """Compare by agreement of outputs and targets from now on: losses before and after a change are no measure."""
        self._by_agreement = True

    def run(
        self,
        seed: int,
        change: Change | None = None,
        where: str | None = None,
        *,
        watch: Watch | None = None,
        stop: Stop | None = None,
    ) -> RunRecord:
        """Run the training once.

        Args:
            seed: The seed.
            change: A change of it; None for as it is.
            where: The module or parameter to change.
            watch: Starts to watch it.
            stop: Called after each score; True ends the run.

        Returns:
            The record; a run that raises an error has ended as ``failed``, unless it is watched.
        """
        name = AS_IT_IS if change is None else change.name
        self.runs += 1
        try:
            with self._clock.timing_run(is_watched=watch is not None):
                return self._run(name, seed, change, where, watch, stop)
        except DiagnosisError as error:
            if watch is not None:  # the first run
                raise
            return RunRecord(name, seed, (), (), ending="failed", message=str(error))

    def with_training(self, seed: int, use: Callable[[Training, Sequence[Batch]], object], count: int) -> None:
        """Call a function with a fresh training and its first batches."""
        with fresh_run(self.source, seed) as training:
            use(training, TrainingRun(self.source, training, count, self._limit_s).held_back)

    def _run(
        self,
        name: str,
        seed: int,
        change: Change | None,
        where: str | None,
        watch: Watch | None,
        stop: Stop | None,
    ) -> RunRecord:
        with nullcontext() if change is None else change.making(), fresh_run(self.source, seed) as training:
            original_loss = training.loss_fn
            if change is not None:
                training = change.apply(training, where)
            run = TrainingRun(self.source, training, HELD_BACK if training.metric is None else 0, self._limit_s)
            scorer = self._scorer(training, run.held_back, original_loss)
            with nullcontext() if watch is None else watch(training) as watcher:
                record = run.run(
                    name,
                    seed,
                    self.steps,
                    scorer=scorer,
                    score_at=self._score_at,
                    watcher=watcher,
                    stop=None if stop is None else lambda record: stop(self._completed(record)),
                )
        return self._completed(record)

    def _completed(self, record: RunRecord) -> RunRecord:
        record = replace(record, comes_trained=self.comes_trained)
        return record if self.score_name != NoScorer.name else _scored_by_losses(record)

    def _scorer(self, training: Training, held_back: list[Batch], loss_fn: Callable[[Any, Any], Tensor]) -> Scorer:
        scorer = self._choose(training, held_back, loss_fn)
        self.score_name = scorer.name
        return scorer

    def _choose(self, training: Training, held_back: list[Batch], loss_fn: Callable[[Any, Any], Tensor]) -> Scorer:
        if training.metric is not None:
            return MetricScorer()
        if self._is_loss_usable is None:
            self._is_loss_usable = bool(held_back) and _works(LossScorer(held_back, loss_fn), training)
        if not self._is_loss_usable:
            return NoScorer()
        return AgreementScorer(held_back) if self._by_agreement else LossScorer(held_back, loss_fn)


def _works(scorer: ModelScorer, training: Training) -> bool:
    """Return whether the loss of outputs and targets can be computed: a user's step may have another one."""
    try:
        scorer.score(training)
    except Exception:  # of the user's code
        return False
    return True


def _scored_by_losses(record: RunRecord) -> RunRecord:
    """Return the record with minus the mean loss of a tenth of the steps, at each moment of scoring, as its scores."""
    span = max(1, len(record.losses) // 10)
    scores = []
    for done, _ in record.scores:
        losses = record.losses[max(0, done - span) : done] if done else record.losses[:1]
        if losses:
            scores.append((done, -sum(losses) / len(losses)))
    return replace(record, scores=tuple(scores))
