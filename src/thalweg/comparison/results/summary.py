"""Summary: what the stored results say of each contender. Reads the store's entries, trains nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.result import TrainingResult
from thalweg.rules import Range

STAGES = ("search", "retrain", "judge", "final", "race", "value", "start", "recommended")
GOOD = 0.1  # a learning rate is good if the loss is at most this share above the best


def loss_of(result: TrainingResult, split: str) -> float:
    """The loss on a split that a result counts with: infinity unless the training ended well."""
    value: float = getattr(result, split)
    return value if result.status == "ok" and not math.isnan(value) else math.inf


@dataclass(frozen=True)
class Estimate:
    """A loss: what a setting comes to on average over so many seeds (or studies), with its 95 % interval.

    It is of the losses as they were measured, even where they are worse than the untrained model's. `lost` of them have
    none (diverged, failed, missed the target) and count as untrained: the value is a bound then, and nothing bounds it
    from above. `unlearnt` ended no better than the untrained model, those that were lost among them.
    """

    mean: float
    low: float
    high: float
    of: int
    lost: int = 0
    unlearnt: int = 0

    @property
    def bound(self) -> str:
        """A mark before a value that is a lower bound, since some of what it is the mean of was lost."""
        return "≥ " if self.lost and math.isfinite(self.mean) else ""

    def learnt(self, untrained: float) -> bool:
        """Whether it is better than the untrained model: on average, and for at least half of the seeds."""
        return self.mean < untrained and 2 * self.unlearnt <= self.of


@dataclass(frozen=True)
class Summary:
    """One contender in the end: all its settings, which of them were searched, and what fresh seeds say of them.

    `value` is what its setting reaches in the race, over `seeds`; of the recommended one, on seeds of its own that
    nothing has used. `values` are the losses behind it. `untuned` is what its defaults come to, `recommended` what our
    starting point does, where there is one. `example_error` is the standard error of one training's test loss over the
    test examples, which no number of seeds makes smaller. `rank` tells where its optimizer stands: the mean judged loss
    over its studies, with its interval. `train_loss` is the median final training loss; `diverged`, `failed` and
    `missed` (the target) count seeds of the race; `seconds` is the median time of one training; `state_bytes` what the
    optimizer keeps for the task's model, None where that is out of sight, and `state_numbers` how many numbers for each
    parameter. `at_edge` names settings that ended near an end of their range; `good_rates` is the factor by which the
    learning rate may vary while the loss stays within 10 % of the best found.
    """

    name: str
    about: str
    settings: dict[str, Any]
    searched: list[str]
    values: list[float]
    value: Estimate
    untuned: Estimate
    recommended: Estimate | None
    example_error: float
    rank: Estimate | None
    studies: int
    worse_by: float
    train_loss: float
    seeds: list[int]
    diverged: int
    failed: int
    missed: int
    seconds: float
    state_bytes: int | None
    state_numbers: int
    line: str
    at_edge: list[str]
    good_rates: float | None
    entries: dict[str, list[TrialRecord]]

    @property
    def lost(self) -> int:
        """Seeds of the race that did not end well, or missed the target."""
        return self.diverged + self.failed + self.missed


def summarize(
    described: Mapping[str, Any], entries: Sequence[TrialRecord], plan: ComparisonPlan, findings: Findings
) -> Summary:
    """The summary of a contender whose trainings are all stored."""
    name, scale = described["name"], plan.scale
    mine = [entry for entry in entries if entry.contender == name]
    staged = {stage: [entry for entry in mine if entry.stage == stage] for stage in STAGES}
    raced, block = staged["race"], staged["value"]
    shown = block or raced
    chosen = raced[0].settings
    statuses = [entry.result.status for entry in raced]
    seeds = [entry.seed for entry in raced]
    leader = (findings.race.kept[0], "race")
    beside = [entry for entry in entries if (entry.contender, entry.stage) == leader and entry.seed in seeds]
    judged: dict[int, list[TrialRecord]] = {}
    for entry in staged["judge"]:
        judged.setdefault(entry.study, []).append(entry)
    ranges = described["space"] | {key: vars(found) for key, found in plan.ranges[name].items()}
    return Summary(
        name=name,
        about=described["about"],
        settings={**described["start"], **chosen},
        searched=list(chosen),
        values=[_measured(entry.result, plan) for entry in shown],
        value=_value([[entry] for entry in shown], plan),
        untuned=_value([[entry] for entry in staged["start"]], plan),
        recommended=_value([[entry] for entry in staged["recommended"]], plan) if staged["recommended"] else None,
        example_error=_example_error(shown) if plan.judged_on == "test" else math.nan,
        rank=_value(list(judged.values()), plan) if judged else None,
        studies=len(judged),
        worse_by=scale.worse_by(fmean(scores_of(raced, plan)), fmean(scores_of(beside, plan))),
        train_loss=median(loss_of(entry.result, "train") for entry in shown),
        seeds=seeds,
        diverged=statuses.count("diverged"),
        failed=statuses.count("failed"),
        missed=statuses.count("ok") - findings.race.completed[name].count(True),
        seconds=median(entry.result.seconds for entry in raced),
        state_bytes=described["state_bytes"],
        state_numbers=described["state_numbers"],
        line=ContenderRecord.from_json(described).line_of_code(chosen),
        at_edge=at_edge({key: ranges[key] for key in described["remarkable"]}, chosen),
        good_rates=good_rates(staged["search"], plan),
        entries=staged,
    )


def _measured(result: TrainingResult, plan: ComparisonPlan) -> float:
    """What counts of a training: the loss that is judged, or the time to the target."""
    return loss_of(result, plan.judged_on) if plan.target is None else plan.target.took(result)


def _example_error(entries: Sequence[TrialRecord]) -> float:
    errors = [entry.result.test_error for entry in entries if math.isfinite(entry.result.test_error)]
    return fmean(errors) if errors else math.nan


def scores_of(entries: Sequence[TrialRecord], plan: ComparisonPlan) -> list[float]:
    """The scores of what was measured; what was lost counts as untrained, or as a whole training without the target."""
    losses = [_measured(entry.result, plan) for entry in entries]
    counted = [loss if math.isfinite(loss) else plan.scale.untrained[plan.judged_on] for loss in losses]
    return [plan.scale.measured(loss, plan.judged_on) for loss in counted]


def _value(groups: Sequence[Sequence[TrialRecord]], plan: ComparisonPlan) -> Estimate:
    """The value of a mean over groups of trainings: a seed each, or the judged seeds of a study each."""
    losses = [[_measured(entry.result, plan) for entry in group] for group in groups]
    lost = sum(not all(map(math.isfinite, group)) for group in losses)
    unlearnt = sum(not all(plan.scale.learnt(loss, plan.judged_on) for loss in group) for group in losses)
    if all(entry.result.status != "ok" for group in groups for entry in group):  # nothing was measured
        return Estimate(math.inf, math.inf, math.inf, len(groups), lost, unlearnt)
    found = statistics.interval([fmean(scores_of(group, plan)) for group in groups])
    mean, low, high = (plan.scale.loss(score) for score in (found.mean, found.low, found.high))
    return Estimate(mean, low, math.inf if lost else high, len(groups), lost, unlearnt)


def good_rates(searched: Sequence[TrialRecord], plan: ComparisonPlan) -> float | None:
    """The factor from the least to the largest learning rate that came within 10 % of the best ones; None without."""
    rates = [
        (loss_of(entry.result, plan.selected_on), entry.settings["lr"]) for entry in searched if "lr" in entry.settings
    ]
    if not rates or plan.design.pruned:  # what was given up might have been good
        return None
    losses = sorted(loss for loss, _ in rates)
    best = losses[len(losses) // 20]  # not the very best of many, which was lucky with its one seed
    if not math.isfinite(best):
        return None
    good = [rate for loss, rate in rates if loss <= best + GOOD * abs(best)]
    return max(good) / min(good)


def at_edge(ranges: Mapping[str, Mapping[str, Any]], settings: Settings) -> list[str]:
    """The settings within a twentieth of an end of their range: a better one may lie beyond it."""
    positions = {name: Range(**found).position(settings[name]) for name, found in ranges.items() if name in settings}
    return [name for name, position in positions.items() if not 0.05 <= position <= 0.95]
