"""diagnose: run a training, watch it, replay it with one change at a time, and prove the cure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.evidence import gather
from thalweg.diagnosis.finding import Finding, cured_by, finding_from
from thalweg.diagnosis.frozen_heap import frozen_heap
from thalweg.diagnosis.judging.candidates import CERTAINTIES, Candidate, candidates, ordered
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.replays import Laboratory
from thalweg.diagnosis.judging.trials import MATTERS, VERIFICATION_RUNS, WORKS, Trials
from thalweg.diagnosis.judging.verdict import MAX_FINDINGS, Verdict, decide, finding_of, smallest_cures
from thalweg.diagnosis.judging.verification import Verification, Verifier, scores
from thalweg.diagnosis.run_record import Cure, Replay
from thalweg.diagnosis.training_source import TrainingSource
from thalweg.errors import BudgetError, DiagnosisError, DiagnosisInterrupted, shown
from thalweg.optim.lazy_imports import import_lazy_parts
from thalweg.tasks.training import Training

DEFAULT_STEPS = 250
INTERRUPTED = "Interrupted: this is what was known by then."
CUT_SHORT = "The budget ended before all causes were tried."
SEEDS_LEFT_OUT = "The budget ended before all fresh seeds were run."
MAX_CURES = 2  # that are verified, if the first one does not hold
_NO_GRAPH = "does not require grad"  # in the message of torch
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BUDGET = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([smh])")


@dataclass(frozen=True)
class DiagnosisProgress:
    """Where a diagnosis is.

    Attributes:
        stage: ``"inspecting"``, ``"watching"``, ``"replaying"`` or ``"verifying"``.
        detail: What is tried at the moment: the name of a change, or the seed.
        runs: Runs that have ended.
        seconds: Time since the beginning.
        budget_s: The budget in seconds.
    """

    stage: str
    detail: str
    runs: int
    seconds: float
    budget_s: float


ReportProgress = Callable[[DiagnosisProgress], Any]


def diagnose(
    function: Callable[[int], Training],
    seeds: int = 3,
    budget: str | float = "60s",
    steps: int | None = None,
    progress: ReportProgress | None = None,
    name: str = "",
) -> Diagnosis:
    """Find the cause of a failed training, and the smallest change that cures it.

    Args:
        function: Makes a fresh ``Training`` for a seed.
        seeds: Number of fresh seeds on which the cure is verified, at least 2.
        budget: Time limit, such as ``"60s"`` or ``"5m"``, or a number of seconds. A diagnosis also ends after about 30
            times the training's own duration, at the earliest after 1.5 seconds; a budget above a minute raises this
            limit in proportion.
        steps: Steps of each run. Defaults to 250.
        progress: Called with where the diagnosis is.
        name: Name of the training. Defaults to that of the function.

    Returns:
        The diagnosis.

    Raises:
        DiagnosisInterrupted: On Ctrl-C. Its ``result`` is the diagnosis as far as it is known.
        DiagnosisError: If the function raises an error, returns no training, or the training cannot run.
        BudgetError: If the budget is no time.

    Example:
        >>> import torch
        >>> import thalweg
        >>> def training(seed):
        ...     x = torch.randn(64, 4)
        ...     model = torch.nn.Linear(4, 1)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
        ...     return thalweg.Training(model, optimizer, [(x, x @ torch.ones(4, 1))], torch.nn.functional.mse_loss)
        >>> diagnosis = thalweg.diagnose(training, steps=50)
        >>> diagnosis.cause.kind
        'lr_too_low'
    """
    budget_s = _seconds(budget)
    _check_counts(seeds, steps)
    import_lazy_parts()
    with frozen_heap():
        clock = Clock(budget_s)
        source = TrainingSource(function, budget_s, name)
        laboratory = Laboratory(source, DEFAULT_STEPS if steps is None else steps, clock)
        return _diagnosis(laboratory, clock, seeds, progress)


def _diagnosis(laboratory: Laboratory, clock: Clock, seeds: int, progress: ReportProgress | None) -> Diagnosis:
    """Return the diagnosis of the laboratory's training."""

    def report(stage: str, detail: str) -> None:
        if progress is not None:
            progress(DiagnosisProgress(stage, detail, laboratory.runs, clock.elapsed_s, clock.budget_s))

    try:
        evidence = gather(laboratory, 0, report)
    except KeyboardInterrupt:
        raise DiagnosisInterrupted() from None
    clues = ordered(evidence.clues)
    if evidence.error is not None and not _is_explained(evidence.error, clues):
        raise evidence.error
    clock.own_s = laboratory.steps * evidence.sick.step_s
    trials = Trials(laboratory, clock, evidence.sick, VERIFICATION_RUNS, report)
    chosen: list[Any] = []
    verifier = Verifier(laboratory, clock, range(1, seeds + 1), report)
    verifications: list[Verification] = []
    is_interrupted = False
    try:
        laboratory.with_training(0, lambda training, batches: chosen.extend(candidates(clues, training)), 0)
        trials.run(chosen)
        verifications = _verifications(verifier, trials, decide(trials, clues))
    except KeyboardInterrupt:
        is_interrupted = True
    verification = verifications[0] if verifications else None
    verdict = _without_refuted(decide(trials, clues), verifications)
    is_certain = any(clue.certainty == "certain" for clue in verdict.unsettled)
    healthy: bool | None = not verdict.is_failing or (_is_refuted(verdict, verification) and not is_certain)
    if healthy and not trials.shows_health:
        healthy = None
    is_cured = verification is not None and verification.holds
    cautions = list(evidence.cautions)
    if trials.is_cut_short and not is_cured:
        cautions.append(CUT_SHORT)
    if verifier.is_cut_short:
        cautions.append(SEEDS_LEFT_OUT)
    if is_interrupted:
        cautions.append(INTERRUPTED)
    cure = None if healthy is not False or verification is None else _cure(laboratory, verification)
    findings = _findings(trials, verdict, clues, healthy=healthy, is_cured=is_cured)
    if cure is not None and cure.verified:
        findings = (cured_by(findings[0], cure.kind, cure.name), *findings[1:])
    diagnosis = Diagnosis(
        name=laboratory.source.name,
        healthy=healthy,
        findings=findings,
        cure=cure,
        score_name=laboratory.score_name,
        steps=laboratory.steps,
        seeds=tuple(range(1, seeds + 1)),
        sick=(trials.sick, *verifier.sick),
        replays=_replays(trials),
        cured=() if verification is None else verification.cured,
        profile=evidence.profile,
        seconds=clock.elapsed_s,
        caution=" ".join(cautions),
    )
    if is_interrupted:
        raise DiagnosisInterrupted(diagnosis)
    return diagnosis


def _is_explained(error: DiagnosisError, clues: Sequence[Clue]) -> bool:
    """Return True if clues may explain why a step raises an error: a loss that no parameter reaches.

    Of any other error the user's line says more than what inspection makes of a step that never ended.
    """
    return _NO_GRAPH in str(error) and any(CERTAINTIES[clue.certainty] > 1 for clue in clues)


def _seconds(budget: str | float) -> float:
    seconds = 0.0
    if isinstance(budget, str):
        match = _BUDGET.fullmatch(budget.strip())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    elif isinstance(budget, (int, float)) and not isinstance(budget, bool):
        seconds = float(budget)
    if not 0 < seconds < float("inf"):
        raise BudgetError(f"diagnose: budget must be a time above zero, got {shown(budget)}. Write '60s' or '5m'.")
    return seconds


def _check_counts(seeds: object, steps: object) -> None:
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 2:
        raise DiagnosisError(
            f"diagnose: seeds must be a whole number, 2 or more, got {shown(seeds)}. "
            "A cure is verified on as many fresh seeds."
        )
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 10):
        raise DiagnosisError(
            f"diagnose: steps must be a whole number, 10 or more, got {shown(steps)}. Some hundred show most causes."
        )


def _verifications(verifier: Verifier, trials: Trials, verdict: Verdict) -> list[Verification]:
    """Return the verifications of cures, up to one that holds; it comes first, else that of the greatest gain."""
    tried: list[Verification] = []
    for candidate in smallest_cures(trials, verdict)[:MAX_CURES]:
        verification = verifier.verify(candidate)
        if verification is None:
            break
        tried.append(verification)
        if verification.holds:
            break
    return sorted(tried, key=lambda verification: (not verification.holds, -verification.gain))


def _without_refuted(verdict: Verdict, verifications: Sequence[Verification]) -> Verdict:
    """Return the verdict with causes last whose cure gained nothing on fresh seeds, if another one did gain."""
    refuted = {
        verification.candidate.kind
        for verification in verifications
        if not verification.holds and _gains_nothing(verification)
    }
    kept = [cause for cause in verdict.causes if cause.kind not in refuted]
    return replace(
        verdict, causes=tuple(sorted(verdict.causes, key=lambda cause: bool(kept) and cause.kind in refuted))
    )


def _gains_nothing(verification: Verification) -> bool:
    return verification.gain < MATTERS[verification.candidate.certainty]


def _is_refuted(verdict: Verdict, verification: Verification | None) -> bool:
    """Return True if the only sign of a fault was a gain on one seed that fresh seeds do not show."""
    if verification is None or not verdict.causes:
        return False
    return not verification.holds and _gains_nothing(verification)


def _findings(
    trials: Trials, verdict: Verdict, clues: Sequence[Clue], *, healthy: bool | None, is_cured: bool
) -> tuple[Finding, ...]:
    """Return the findings: the causes and what no replay could settle; of a training that may be healthy notes.

    If a cure is verified, the training works, so what else looked like a cause is a note. Certain faults remain, except
    a gradient that is missing: it is a consequence.
    """
    if healthy is not False:
        least = 3 if healthy else 2
        chosen = [clue for clue in clues if CERTAINTIES[clue.certainty] >= least]
        return tuple(finding_from(clue, "note") for clue in chosen[:MAX_FINDINGS])
    causes = [
        # The cause explains what no fact shows by itself: a smaller gain of another change is a consequence.
        finding_of(trials, candidate, None if number == 0 or candidate.certainty == 3 else "note")
        for number, candidate in enumerate(_without_opposites(verdict.causes))
    ]
    works = trials.has_learnt
    unsettled = [
        finding_from(
            clue,
            "note"
            if is_cured and (clue.certainty != "certain" or clue.kind == "no_gradient")
            else "warning"
            if causes or works
            else "error",
        )
        for clue in verdict.unsettled
    ]
    # A certain fault that no replay can mend comes before what may only make up for it.
    is_settled = bool(verdict.causes) and verdict.causes[0].certainty == 3
    first = (
        []
        if is_settled
        else [item for item, clue in zip(unsettled, verdict.unsettled, strict=True) if clue.certainty == "certain"]
    )
    return tuple([*first, *causes, *(item for item in unsettled if item not in first)][:MAX_FINDINGS])


def _without_opposites(causes: Sequence[Candidate]) -> list[Candidate]:
    """Return causes without a learning rate that is too high after one that is too low, or the other way round."""
    rates = [cause for cause in causes if cause.kind in ("lr_too_high", "lr_too_low")]
    return [cause for cause in causes if cause not in rates[1:]]


def _cure(laboratory: Laboratory, verification: Verification) -> Cure:
    candidate = verification.candidate
    codes: list[str] = []
    laboratory.with_training(
        0, lambda training, batches: codes.append(candidate.change.code(training, candidate.where)), 0
    )
    return Cure(
        kind=candidate.kind,
        where=candidate.where,
        name=candidate.change.name,
        code=codes[0],
        before=scores(verification.sick),
        after=scores(verification.cured),
        seeds=tuple(record.seed for record in verification.cured),
        difference=verification.difference,
        low=verification.low,
        high=verification.high,
        verified=verification.holds,
    )


def _replays(trials: Trials) -> tuple[Replay, ...]:
    scale = trials.scale
    return tuple(
        Replay(
            change=candidate.change.name,
            kind=candidate.kind,
            where=candidate.where,
            is_probe=candidate.is_probe,
            run=trials.records[candidate.key],
            gain=trials.gain(candidate, scale),
            works=scale.final_share(trials.records[candidate.key]) >= 1 - WORKS,
        )
        for candidate in trials.candidates
    )
