"""Evidence: what inspection and a watched run say about a training, before anything is replayed."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from statistics import median

from torch import Tensor

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.inspection import inspect
from thalweg.diagnosis.judging.replays import AS_IT_IS, Laboratory
from thalweg.diagnosis.judging.scores import comes_trained
from thalweg.diagnosis.judging.trials import Report
from thalweg.diagnosis.monitoring import Monitor, Record, TraceAt, traced_clues
from thalweg.diagnosis.monitoring import clues as clues_of
from thalweg.diagnosis.run_record import RunRecord
from thalweg.diagnosis.run_training import Batch, Watcher
from thalweg.errors import DiagnosisError
from thalweg.tasks.training import Training
from thalweg.tasks.user_code import describe

INSPECTED_BATCHES = 8
RECURRENCE_BATCHES = 64  # more than a pass over the small data of a try-out
UNRELATED = ("labels_misaligned", "augmentation_too_strong")  # what targets that have nothing to do with inputs may be
BOOTSTRAP = "bootstrap_divergence"
WATCH_EVERY = 5  # steps: closer looks cost more than a run of a small model


@dataclass
class Evidence:
    """The facts about a training that are known before replays.

    Attributes:
        sick: The watched run; one that failed if the training cannot run.
        clues: The clues of inspection and of the watched run.
        profile: Measurements of the watched run: by quantity, by name in order of depth.
        cautions: What could not be looked at, and why.
        error: Why the training cannot run; None if it can.
    """

    sick: RunRecord = field(default_factory=lambda: RunRecord(AS_IT_IS, 0, (), (), ending="failed"))
    clues: list[Clue] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)
    error: DiagnosisError | None = None


def gather(laboratory: Laboratory, seed: int, report: Report) -> Evidence:
    """Inspect a fresh training, then run one and watch it.

    Args:
        laboratory: Runs the trainings.
        seed: The seed.
        report: Told the stage.
    """
    evidence = Evidence()

    def look(training: Training, batches: Sequence[Batch]) -> None:
        try:
            evidence.clues += inspect(training, batches)
        except Exception as error:  # a look at the user's objects must not end a diagnosis
            evidence.cautions.append(f"The inspection ended early: {describe(error)}.")
        laboratory.comes_trained = comes_trained(training, batches) if batches else None

    report("inspecting", "")
    laboratory.with_training(seed, look, INSPECTED_BATCHES)
    report("watching", "as it is")
    monitors: list[Monitor] = []

    def watch(training: Training) -> AbstractContextManager[Watcher]:
        monitors.append(Monitor(training.model, training.optimizer, every=WATCH_EVERY))
        return monitors[0]

    try:
        evidence.sick = laboratory.run(seed, watch=watch)
    except DiagnosisError as error:
        evidence.error = error
        evidence.sick = replace(evidence.sick, seed=seed, message=str(error))
    for monitor in monitors:
        evidence.clues += clues_of(monitor.record) + _traced(laboratory, seed, monitor.record)
        evidence.profile = _profile(monitor.record)
    evidence.clues = _confirmed(evidence.clues)
    if any(clue.kind in UNRELATED for clue in evidence.clues):
        repeats: list[bool] = []
        laboratory.with_training(seed, lambda _, batches: repeats.append(examples_repeat(batches)), RECURRENCE_BATCHES)
        unlikely = "augmentation_too_strong" if repeats[0] else "labels_misaligned"
        evidence.clues.sort(key=lambda clue: clue.kind == unlikely)
    return evidence


def _confirmed(clues: Sequence[Clue]) -> list[Clue]:
    """Return clues in which own targets beside a loss that grows without bound are likely its cause.

    Each of the two alone has many reasons. Gradients that explode later are then a consequence.
    """
    own = [clue for clue in clues if clue.kind == BOOTSTRAP]
    if len(own) < 2:
        return list(clues)
    growing = max(own, key=lambda clue: clue.since)
    rest = [clue for clue in clues if clue.kind != BOOTSTRAP]
    merged = {**own[0].evidence, **growing.evidence}
    return [replace(growing, certainty="likely", where=own[0].where or growing.where, evidence=merged), *rest]


def examples_repeat(batches: Sequence[Batch]) -> bool:
    """Return True if inputs come again exactly as they were, so nothing changes them at random.

    Example:
        >>> import torch
        >>> x = torch.rand(4, 3)
        >>> examples_repeat([(x, 0), (x.flip(0), 0)]), examples_repeat([(x, 0), (x + 1, 0)])
        (True, False)
    """
    seen: set[bytes] = set()
    for first, *_ in batches:
        if isinstance(first, Tensor):
            rows = (
                {row.numpy().tobytes() for row in first.detach().cpu().float().flatten(1)} if first.dim() > 1 else set()
            )
            if seen & rows:
                return True
            seen |= rows
    return False


def _traced(laboratory: Laboratory, seed: int, record: Record) -> list[Clue]:
    """Run to the first value that is not finite once more, and trace where it came from."""
    if record.non_finite is None:
        return []
    step, traces = record.non_finite.step, list[TraceAt]()

    def trace(training: Training) -> AbstractContextManager[Watcher]:
        traces.append(TraceAt(training.model, step))
        return traces[0]

    laboratory.run(seed, watch=trace)
    return traced_clues(record, traces[0].origin)


def _profile(record: Record) -> dict[str, dict[str, float]]:
    """Return the median of each measured quantity by module or parameter, in order of depth."""
    tables = {
        "gradient norm": record.gradient_norms,
        "update ratio": record.update_ratios,
        "activation scale": record.activation_scales,
        "dead units": record.dead,
        "saturated units": record.saturated,
    }
    depths = record.depths | {name: info.depth for name, info in record.parameters.items()}
    profile: dict[str, dict[str, float]] = {}
    for quantity, table in tables.items():
        names = sorted(table, key=lambda name: depths.get(name, len(depths)))
        finite = {name: [value for value in table[name] if math.isfinite(value)] for name in names}
        profile[quantity] = {name: median(values) for name, values in finite.items() if values}
    return {quantity: values for quantity, values in profile.items() if values}
