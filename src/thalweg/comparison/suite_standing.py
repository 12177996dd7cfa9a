"""Standing: the result of one contender on one task of a suite, as numbers and as the cell of a table."""

import math
from dataclasses import dataclass, field
from statistics import fmean

from thalweg.comparison.finished import Comparison
from thalweg.comparison.presentation.overview import worse_by_in_words
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import trial_score
from thalweg.comparison.results.summary import Summary
from thalweg.comparison.results.terms import HEADINGS

BEST = "best"
NOT_SEPARATED = "not separated"
NOT_RACED = "not raced"


@dataclass(frozen=True)
class Standing:
    """The result of one contender on one task.

    Attributes:
        worse_by: By how much it is worse than the best contender: a share, or a difference (``Summary.worse_by``).
        lost: The seeds of the race that diverged or missed the target.
        seeds: All its seeds of the race.
        best: True for the contender with the best mean.
        tied: True if it is not shown to be worse than the best.
        worse_by_text: ``worse_by`` as text.
        failed: The seeds of the race whose training raised an error.
        failed_trainings: The trainings of all stages that raised an error.
        trainings: All its trainings.
        raced: True if it took part in the race.
        ratio: ``worse_by`` as a ratio to the best, alike on all tasks; not a number if there is none.
        text: The cell of the table: ``best``, ``worse_by_text``, or how all its seeds ended.
        remarks: Facts that limit the cell, each in a few words.
    """

    worse_by: float
    lost: int
    seeds: int
    best: bool
    tied: bool
    worse_by_text: str = "–"
    failed: int = 0
    failed_trainings: int = 0
    trainings: int = 0
    raced: bool = True
    ratio: float = math.nan
    text: str = "–"
    remarks: list[str] = field(default_factory=list)

    @property
    def cell(self) -> str:
        """The text of the cell with its remarks, and a tilde if it is not shown to be worse than the best."""
        mark = "~ " if NOT_SEPARATED in self.remarks else ""
        remarks = ", ".join(remark for remark in self.remarks if remark != NOT_SEPARATED)
        return f"{mark}{self.text}{f' ({remarks})' if remarks else ''}"

    @property
    def has_value(self) -> bool:
        """True if a seed of it has a value; else its difference from the best is a bound."""
        return self.lost + self.failed < self.seeds


@dataclass(frozen=True)
class TaskRuns:
    """The runs of one contender on one task.

    Attributes:
        excess: The excess of each seed over the leader's.
        lost: True for each seed that was lost or failed.
    """

    excess: list[float]
    lost: list[bool]


def has_leader(comparison: Comparison) -> bool:
    """Return True if a training has ended, so that one contender is ahead."""
    return bool(comparison.contenders) and bool(comparison.contenders[0].beside_leader)


def leader_of(comparison: Comparison) -> str:
    """Return the contender with the best mean."""
    return comparison.findings.race.remaining[0]


def has_ratios(comparison: Comparison) -> bool:
    """Return True if a difference from the leader is a share of something."""
    return has_leader(comparison) and math.isfinite(_excess(comparison, 0.0))


def standings_of(comparison: Comparison) -> dict[str, Standing]:
    """Return the result of each contender of a comparison, by name."""
    return {summary.name: _standing(comparison, summary) for summary in comparison.contenders}


def runs_of(comparison: Comparison) -> dict[str, TaskRuns]:
    """Return the runs of each contender of a comparison that shares seeds with the leader, by name."""
    plan = comparison.plan

    def excess(pair: tuple[TrialRecord, TrialRecord]) -> float:
        own, leaders = (trial_score(trial, plan).evaluation_score for trial in pair)
        return _excess(comparison, own - leaders)

    return {
        summary.name: TaskRuns(
            # A contender that was dropped early has fewer seeds than the leader.
            excess=[excess(pair) for pair in summary.beside_leader],
            lost=[not trial_score(trial, plan).completed for trial, _ in summary.beside_leader],
        )
        for summary in comparison.contenders
        if summary.beside_leader
    }


def _standing(comparison: Comparison, summary: Summary) -> Standing:
    is_best = has_leader(comparison) and summary.name == leader_of(comparison)
    is_tied = summary.name in comparison.verdict.tied
    difference = worse_by_in_words(summary, comparison.plan)
    text = _end_of_all_seeds(summary) or (BEST if is_best else difference)
    return Standing(
        worse_by=summary.worse_by,
        lost=summary.lost - summary.failed,
        seeds=len(summary.seeds),
        best=is_best,
        tied=is_tied,
        worse_by_text=difference,
        failed=summary.failed,
        failed_trainings=summary.failed_trainings,
        trainings=len(summary.trainings),
        raced=bool(summary.raced),
        ratio=_ratio(comparison, summary),
        text=text,
        remarks=_remarks(comparison, summary, is_separated=text != difference or not is_tied),
    )


def _end_of_all_seeds(summary: Summary) -> str:
    """Return how the seeds of the race ended if none has a value, else nothing."""
    if summary.lost < len(summary.seeds):
        return ""
    if not summary.seeds:
        return HEADINGS.failed if summary.failed_trainings else "–"
    return HEADINGS.failed if summary.failed == len(summary.seeds) else HEADINGS.lost


def _remarks(comparison: Comparison, summary: Summary, *, is_separated: bool) -> list[str]:
    lost = summary.lost - summary.failed
    has_value = summary.lost < len(summary.seeds)
    is_out_of_race = summary.name in comparison.findings.race.unraced and bool(comparison.contenders[0].raced)
    facts = {
        NOT_SEPARATED: has_leader(comparison) and not is_separated,
        NOT_RACED: has_value and is_out_of_race,
        f"{lost} of {len(summary.seeds)} {HEADINGS.lost}": lost > 0,
        f"{summary.failed_trainings} of {len(summary.trainings)} {HEADINGS.failed}": summary.failed_trainings > 0,
    }
    return [text for text, holds in facts.items() if holds]


def _ratio(comparison: Comparison, summary: Summary) -> float:
    if not has_leader(comparison):
        return math.nan
    plan = comparison.plan
    excess = plan.scale.excess_of(summary.worse_by, _leader_mean(comparison), plan.judged_on)
    return math.exp(excess) if excess < math.log(1e300) else math.nan


def _leader_mean(comparison: Comparison) -> float:
    leader = leader_of(comparison)
    pairs = next(summary.beside_leader for summary in comparison.contenders if summary.name == leader)
    return fmean(trial_score(trial, comparison.plan).evaluation_score for _, trial in pairs)


def _excess(comparison: Comparison, difference: float) -> float:
    plan = comparison.plan
    return plan.scale.excess(difference, _leader_mean(comparison), plan.judged_on)
