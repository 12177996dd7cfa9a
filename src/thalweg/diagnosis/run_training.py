"""Run a training: the plain step or the user's, errors with the user's line, and a record of what happened."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter, process_time
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.diagnosis.run_record import Ending, RunRecord
from thalweg.diagnosis.time_limit import TimeLimitExceeded, time_limit
from thalweg.diagnosis.training_source import BatchStream, TrainingSource
from thalweg.errors import DiagnosisError
from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.tasks.reproducibility.seeded import restored_random_states, seeded
from thalweg.tasks.training import Training
from thalweg.tasks.user_code import describe, line_of, line_of_error, remedy_of

MIN_STEP_LIMIT_S = 10.0  # a later step may take so long in any case,
STEP_LIMIT_FACTOR = 200.0  # or so many times as long as the median of the first ones
FIRST_STEPS = 5
WARM_UP_STEPS = 3  # that do not count in the duration of a step
MAX_NON_FINITE = 4  # losses in a row that are not finite end a run; a GradScaler survives one or two

Batch = tuple[Any, ...]
Stop = Callable[[RunRecord], bool]


class Watcher(Protocol):
    """Whatever follows a run: it is told the loss after each step."""

    def step(self, loss: Tensor | float) -> None:
        """Follow one step."""


class Scorer(Protocol):
    """Judges a training at some point; higher is better."""

    def score(self, training: Training) -> float:
        """Return the score of the model as it is now."""

    def blind_score(self, training: Training) -> float | None:
        """Return the score with the mean output of each batch in place of each output; None if it does not apply."""


def plain_step(training: Training, *batch: Any) -> Any:
    """Take one step as ``Training`` describes it, and return the loss.

    If the loss has no graph, as where everything is frozen or detached, there is no backward pass.
    """
    *inputs, target = batch
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(*inputs), target)
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        training.optimizer.step()
    return loss.detach() if isinstance(loss, Tensor) else loss


@contextmanager
def fresh_run(source: TrainingSource, seed: int) -> Iterator[Training]:
    """Make a training of a seed in a ``with`` block that leaves no trace in the process."""
    with isolated(), seeded(seed):
        warnings.simplefilter("ignore")  # the first run of a user's program has shown them
        yield source.make(seed)


class TrainingRun:
    """A run of one training: its batches, its losses, its scores.

    Args:
        source: Where the training is from, for messages.
        training: The training, fresh.
        held_back: Number of first batches that no step uses.
        limit_s: Seconds that the first step may take.

    Attributes:
        held_back: The batches that no step uses.
        losses: The loss of each step so far.
        scores: Pairs (steps done, score) so far.
    """

    def __init__(self, source: TrainingSource, training: Training, held_back: int, limit_s: float) -> None:
        self._source, self.training, self._limit_s = source, training, limit_s
        self._step_seconds: list[float] = []
        self._processor_s, self._timed_steps, self._timed_since = 0.0, 0, 0
        with self._user_code("batches must be iterable"):
            self.stream = BatchStream(training.batches, source)
        self.held_back: list[Batch] = []
        for _ in range(held_back):
            batch = self._next_batch()
            if batch is None:
                break
            self.held_back.append(batch)
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self._blind_start: float | None = None
        self._blind_end: float | None = None
        self._began = perf_counter()

    def run(
        self,
        name: str,
        seed: int,
        steps: int,
        *,
        scorer: Scorer | None = None,
        score_at: Sequence[int] = (),
        watcher: Watcher | None = None,
        stop: Stop | None = None,
    ) -> RunRecord:
        """Train and return the record.

        Args:
            name: Name of the run.
            seed: The seed that the training was made from.
            steps: Number of steps.
            scorer: Judges the model; None if only losses count.
            score_at: Numbers of steps after which it judges.
            watcher: Follows the run.
            stop: Called after each score; True ends the run.
        """
        ending: Ending = "complete"
        non_finite = 0
        if 0 in score_at:
            self._score(scorer)
            self._blind_start = self._score_blindly(scorer)
        began = process_time()  # a system call, too slow for each step
        for done in range(1, steps + 1):
            batch = self._next_batch()
            if batch is None:
                break
            loss = self._step(batch)
            self.losses.append(loss)
            if done == WARM_UP_STEPS and steps > 2 * WARM_UP_STEPS:
                began, self._timed_since = process_time(), done
            if watcher is not None:
                watcher.step(loss)
            non_finite = 0 if math.isfinite(loss) else non_finite + 1
            if non_finite >= MAX_NON_FINITE:
                ending = "diverged"
                break
            if done in score_at:
                self._count_time(began)
                self._score(scorer)
                if stop is not None and done < steps and stop(self._record(name, seed, ending)):
                    ending = "stopped"
                    break
                began = process_time()
        self._count_time(began)
        if ending == "complete":
            self._blind_end = self._score_blindly(scorer)
        return self._record(name, seed, ending)

    def _record(self, name: str, seed: int, ending: Ending) -> RunRecord:
        return RunRecord(
            name,
            seed,
            tuple(self.losses),
            tuple(self.scores),
            self._blind_start,
            self._blind_end,
            ending=ending,
            seconds=perf_counter() - self._began,
            step_s=self._processor_s / self._timed_steps if self._timed_steps else 0.0,
        )

    def _count_time(self, began: float) -> None:
        """Count the processor time of the steps since the last time."""
        if (steps := len(self.losses) - self._timed_since) > 0:
            self._processor_s += process_time() - began
            self._timed_steps += steps
            self._timed_since = len(self.losses)

    def _score(self, scorer: Scorer | None) -> None:
        if scorer is not None:
            with self._user_code("metric must return a number"):
                self.scores.append((len(self.losses), scorer.score(self.training)))

    def _score_blindly(self, scorer: Scorer | None) -> float | None:
        if scorer is None:
            return None
        with self._user_code("metric must return a number"):
            return scorer.blind_score(self.training)

    def _next_batch(self) -> Batch | None:
        with self._user_code("batches must yield the next batch"):
            return self.stream.next()

    def _step(self, batch: Batch) -> float:
        began = perf_counter()
        training = self.training
        who = "the step" if training.step is not None else "the plain step (zero_grad, forward, loss, backward, step)"
        with self._user_code(f"{who} must run"):
            loss = plain_step(training, *batch) if training.step is None else training.step(training, *batch)
        if len(self._step_seconds) < FIRST_STEPS:
            self._step_seconds.append(perf_counter() - began)
        return self._as_number(loss)

    def _as_number(self, loss: Any) -> float:
        by = self.training.loss_fn if self.training.step is None else self.training.step
        name = "loss_fn" if self.training.step is None else "step"
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise self._source.error(
                f"{name} must return a scalar",
                f"a tensor of shape {tuple(loss.shape)}",
                "Take its mean: loss.mean().",
                line_of(by),
            )
        if not isinstance(loss, (Tensor, int, float)) or isinstance(loss, bool):
            raise self._source.error(
                f"{name} must return the loss, a scalar", type(loss).__name__, "Return the loss.", line_of(by)
            )
        return float(loss)

    def _limit(self) -> float:
        """Return the seconds that the next call of the user's code may take."""
        if len(self._step_seconds) < FIRST_STEPS:
            return self._limit_s
        return max(MIN_STEP_LIMIT_S, STEP_LIMIT_FACTOR * median(self._step_seconds))

    @contextmanager
    def _user_code(self, condition: str) -> Iterator[None]:
        limit = self._limit()
        try:
            with time_limit(limit):
                yield
        except TimeLimitExceeded as error:
            raise self._source.error(
                condition, f"no end within {limit:.3g} s", "Look for an endless loop.", line_of_error(error)
            ) from None
        except DiagnosisError:
            raise
        except (Exception, SystemExit) as error:
            raise self._source.error(condition, describe(error), remedy_of(error), line_of_error(error)) from error


@contextmanager
def evaluating(training: Training) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, and restore modes and random states at the end."""
    modes = [(module, module.training) for module in training.model.modules()]
    with restored_random_states(), torch.no_grad():
        training.model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
