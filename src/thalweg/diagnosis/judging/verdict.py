"""Verdict: the cause among the candidates that were tried, and the smallest change that cures it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.finding import Finding, Severity, finding_from
from thalweg.diagnosis.judging.candidates import CERTAINTIES, Candidate
from thalweg.diagnosis.judging.scale import Scale, final_score
from thalweg.diagnosis.judging.trials import NOT_LEARNT, WORKS, Trials
from thalweg.diagnosis.kinds import KINDS

# Added to the gain of a candidate, as a share of the best gain: among changes that cure about equally the cause is the
# one that a clue names.
BONUS = {3: 0.5, 2: 0.3, 1: 0.15, 0: 0.0}
# Among probes that cure equally it is the one whose change suits few trainings: those with a discriminator, a target
# of their own, a divergence; then it is the learning rate.
PROBE_BONUS = {
    "gan_discriminator_wins": 0.2,
    "bootstrap_divergence": 0.2,
    "posterior_collapse": 0.2,
    "lr_too_high": 0.1,
    "lr_too_low": 0.1,
}
SYMPTOM_BONUS = -0.3
MAX_FINDINGS = 4
ERROR_GAIN = 0.5  # a cause whose change gains more than this share is an error, else a warning
CURE_TOLERANCE = 0.03  # a smaller change may end so much below the best one of its kind


@dataclass(frozen=True)
class Verdict:
    """The answer of the replays.

    Attributes:
        causes: The candidates whose change makes a difference that matters, one for each kind, the cause
            first.
        unsettled: Clues that no replay could settle, though the training does not work: those without a change that
            applies, and where no change cures, all that are more than possible.
        is_failing: True if the training learnt next to nothing, something does better by what matters, or a certain
            fault was not replayed.
    """

    causes: tuple[Candidate, ...]
    unsettled: tuple[Clue, ...]
    is_failing: bool


def decide(trials: Trials, clues: Sequence[Clue]) -> Verdict:
    """Return the causes, the true one first.

    Args:
        trials: The replays.
        clues: All clues, in order.
    """
    scale = trials.scale
    relevant = [candidate for candidate in trials.candidates if trials.matters(candidate, scale)]
    best_gain = max((trials.gain(candidate, scale) for candidate in relevant), default=0.0)
    rank = {id(candidate): _rank(trials, candidate, scale, best_gain) for candidate in relevant}
    relevant.sort(
        key=lambda candidate: (
            -rank[id(candidate)],
            KINDS[candidate.kind].group == "step",  # what may have any cause comes after what is more specific
            candidate.clue.since,
            candidate.change.size,
            -trials.gain(candidate, scale),
        )
    )
    causes: dict[str, Candidate] = {}
    for candidate in relevant:
        causes.setdefault(candidate.kind, candidate)
    failed = not math.isfinite(final_score(trials.sick))
    learnt_nothing = failed or scale.is_empty or scale.final_share(trials.sick) < NOT_LEARNT
    tried = {candidate.kind for candidate in trials.candidates}
    untried = [clue for clue in clues if clue.kind not in tried and _counts(clue, learnt_nothing)]
    is_certain = any(clue.certainty == "certain" for clue in untried)
    # Some metrics are best before any training; then a loss that falls and no clue say that it works.
    is_stuck = learnt_nothing and (bool(untried) or not trials.has_lower_loss)
    is_failing = bool(causes) or is_stuck or is_certain
    if not causes and is_stuck:
        untried = [clue for clue in clues if clue in untried or CERTAINTIES[clue.certainty] > 1]
    return Verdict(tuple(causes.values()), tuple(untried), is_failing)


def _counts(clue: Clue, learnt_nothing: bool) -> bool:
    """Return True if a clue that no replay settles is worth a finding: of the data also if nothing at all is learnt."""
    return CERTAINTIES[clue.certainty] > 1 or (learnt_nothing and KINDS[clue.kind].group == "data")


def _rank(trials: Trials, candidate: Candidate, scale: Scale, best_gain: float) -> float:
    bonus = BONUS[candidate.certainty]
    if candidate.is_symptom:
        bonus = SYMPTOM_BONUS
    elif candidate.is_probe:
        bonus = PROBE_BONUS.get(candidate.kind, 0.0)
    share = trials.gain(candidate, scale) / best_gain
    return (1.0 if share >= 1 - WORKS else share) + bonus


def smallest_cures(trials: Trials, verdict: Verdict) -> list[Candidate]:
    """Return the changes to verify, the one to prefer first: the smallest of the cause that does, then others."""
    if not verdict.causes:
        return []
    scale = trials.scale
    cause = verdict.causes[0]
    relevant = [candidate for candidate in trials.candidates if trials.matters(candidate, scale)]

    def share(candidate: Candidate) -> float:
        return scale.final_share(trials.records[candidate.key])

    own = [candidate for candidate in relevant if candidate.cause == cause.cause]
    best = max(share(candidate) for candidate in own)
    good = [candidate for candidate in own if share(candidate) >= best - CURE_TOLERANCE]
    order = sorted(good, key=lambda candidate: (candidate.change.size, -share(candidate)))[:1]
    ranked = sorted(relevant, key=lambda candidate: (share(candidate) < 1 - WORKS, candidate.change.size))
    if best < 1 - WORKS:  # another change does clearly better
        ranked = sorted(relevant, key=lambda candidate: -share(candidate))
        if share(ranked[0]) > best + WORKS:
            order = [ranked[0], *order]
    return [*order, *(candidate for candidate in ranked if candidate not in order)]


def finding_of(trials: Trials, candidate: Candidate, severity: Severity | None = None) -> Finding:
    """Return the finding of a candidate that was tried, with the scores before and after its change."""
    scale = trials.scale
    gain = trials.gain(candidate, scale)
    evidence = {
        **candidate.clue.evidence,
        "score": final_score(trials.sick),
        f"score with {candidate.change.name}": final_score(trials.records[candidate.key]),
    }
    clue = replace(candidate.clue, evidence=evidence)
    return finding_from(clue, severity or ("error" if gain >= ERROR_GAIN else "warning"))
