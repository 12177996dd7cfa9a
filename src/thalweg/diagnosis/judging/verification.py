"""Verification: does a cure hold on fresh seeds, beyond chance and by an amount that matters?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from thalweg.diagnosis.judging.candidates import Candidate
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.replays import AS_IT_IS, Laboratory
from thalweg.diagnosis.judging.scale import Scale, final_score
from thalweg.diagnosis.judging.trials import MATTERS, Report
from thalweg.diagnosis.run_record import RunRecord
from thalweg.statistics import drop, interval

MORE_SEEDS = 2  # if the first ones leave it open
# The levels of the two looks. Both are two-sided, and a cure counts on one side only: they use up half of 5 %.
ALPHAS = (0.03, 0.02)
# The level of the exact test of ranks at the second look, one-sided. Some trainings fail on some seeds only; how far
# they fall then differs by so much that their mean says little. All sums up to less than 5 %.
RANK_ALPHA = 0.01


@dataclass(frozen=True)
class Verification:
    """The runs of a cure on fresh seeds beside those of the training as it is.

    Attributes:
        candidate: The cure.
        sick: The runs as the training is.
        cured: The runs with the cure, of the same seeds.
        difference: The mean improvement of the score; runs that diverged count as what a blind model reaches.
        low: The lower end of its 95 % interval.
        high: The upper end.
        gain: The mean improvement, as a share of what can be reached.
        holds: True if the improvement is significant and matters.
    """

    candidate: Candidate
    sick: tuple[RunRecord, ...]
    cured: tuple[RunRecord, ...]
    difference: float
    low: float
    high: float
    gain: float
    holds: bool


class Verifier:
    """Verifies cures on the same fresh seeds.

    Args:
        laboratory: Runs the trainings.
        clock: The time that is left.
        seeds: The fresh seeds.
        report: Told the stage and what is tried.

    Attributes:
        sick: The runs as the training is, so far.
        is_cut_short: True if there was no time for a run on a fresh seed.
    """

    def __init__(self, laboratory: Laboratory, clock: Clock, seeds: Sequence[int], report: Report) -> None:
        self.sick: list[RunRecord] = []
        self.is_cut_short = False
        self._laboratory, self._clock, self._seeds, self._report = laboratory, clock, list(seeds), report

    def verify(self, candidate: Candidate) -> Verification | None:
        """Run a cure on the fresh seeds, and on more if that leaves it open; None if there is no time for two."""
        cured: list[RunRecord] = []
        self._run_seeds(candidate, cured, self._seeds)
        if len(cured) < 2:
            return None
        verification = compared(candidate, self.sick[: len(cured)], cured, ALPHAS[0])
        if len(cured) == len(self._seeds) and self._is_open(verification):
            last = self._seeds[-1]
            self._run_seeds(candidate, cured, range(last + 1, last + 1 + MORE_SEEDS))
            if len(cured) > len(self._seeds):
                verification = compared(candidate, self.sick[: len(cured)], cured, ALPHAS[1], RANK_ALPHA)
        return verification

    def _run_seeds(self, candidate: Candidate, cured: list[RunRecord], seeds: Sequence[int]) -> None:
        """Run the training as it is and with the cure on seeds, as long as there is time."""
        for seed in seeds:
            is_known = len(cured) < len(self.sick)
            if not self._clock.pays_for(1.0 if is_known else 2.0):
                self.is_cut_short = True
                return
            if not is_known:
                self._report("verifying", f"{AS_IT_IS}, seed {seed}")
                self.sick.append(self._laboratory.run(seed))
            self._report("verifying", f"{candidate.change.name}, seed {seed}")
            cured.append(self._laboratory.run(seed, candidate.change, candidate.where))

    def _is_open(self, verification: Verification) -> bool:
        return not verification.holds and verification.gain >= MATTERS[verification.candidate.certainty]


def compared(
    candidate: Candidate,
    sick: Sequence[RunRecord],
    cured: Sequence[RunRecord],
    alpha: float,
    rank_alpha: float = 0.0,
) -> Verification:
    """Return the verification of a cure from runs of the same seeds, at least two of each.

    Args:
        candidate: The cure.
        sick: The runs as the training is.
        cured: The runs with the cure, of the same seeds.
        alpha: The level of the test of means.
        rank_alpha: The level of the test of ranks.

    Example:
        >>> from thalweg.diagnosis.changes import changes_for
        >>> from thalweg.diagnosis.clue import Clue
        >>> def runs(*scores):
        ...     return [RunRecord("", n, (), ((0, 0.0), (9, score), (10, score))) for n, score in enumerate(scores)]
        >>> candidate = Candidate(Clue("lr_too_low", "likely"), changes_for("lr_too_low", None)[0])
        >>> verification = compared(candidate, runs(0.1, 0.2, 0.1), runs(0.9, 0.9, 0.8), 0.05)
        >>> verification.holds, round(verification.difference, 2)
        (True, 0.73)
    """
    scale = Scale([*sick, *cured])
    before, after = ([scale.final_share(record) for record in runs] for runs in (sick, cured))
    differences = [b - a for a, b in zip(before, after, strict=True)]
    gain = sum(differences) / len(differences)
    _, dropped = drop({"sick": [-share for share in before], "cured": [-share for share in after]}, alpha)
    unit = scale.best - scale.floor
    spread = interval([unit * difference for difference in differences])
    matters = gain >= MATTERS[candidate.certainty]
    is_better = dropped == ["sick"] or rank_sum_level(before, after) <= rank_alpha
    return Verification(
        candidate,
        tuple(sick),
        tuple(cured),
        spread.mean,
        spread.low,
        spread.high,
        gain,
        matters and is_better,
    )


def rank_sum_level(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the one-sided level at which values after are higher than before: the exact test of Wilcoxon (1945).

    It is the share of all ways to divide the values into two groups in which the second has as high a sum of ranks.

    Args:
        before: A few values; equal ones share their ranks.
        after: A few values.

    Example:
        >>> round(rank_sum_level([0.9, 0.1, 0.8, 0.9, 0.2], [0.95, 0.97, 0.96, 0.95, 0.96]), 4)  # 1 of 252
        0.004
        >>> rank_sum_level([1.0], [1.0])
        1.0
    """
    values = [*before, *after]
    ranks = [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]
    reached = sum(ranks[len(before) :])
    sums = [sum(chosen) for chosen in combinations(ranks, len(after))]
    return sum(total >= reached for total in sums) / len(sums)


def scores(records: Sequence[RunRecord]) -> tuple[float, ...]:
    """Return the final score of each run."""
    return tuple(final_score(record) for record in records)
