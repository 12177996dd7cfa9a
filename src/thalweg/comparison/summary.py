"""Summary: what the stored results say of each contender. Reads the store's entries, trains nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from thalweg.comparison import statistics
from thalweg.comparison.contenders import line_of_code
from thalweg.comparison.plan import Plan
from thalweg.comparison.protocol import Findings
from thalweg.comparison.search import Settings
from thalweg.comparison.store import Entry
from thalweg.comparison.training import Result
from thalweg.comparison.work import time_to_target
from thalweg.rules import Range

STAGES = ("search", "retrain", "judge", "final", "race", "value", "start", "recommended")
GOOD = 0.1  # a learning rate is good if the loss is at most this share above the best


def loss_of(result: Result, split: str) -> float:
    """The loss on a split that a result counts with: infinity unless the training ended well."""
    value: float = getattr(result, split)
    return value if result.status == "ok" and not math.isnan(value) else math.inf


@dataclass(frozen=True)
class Value:
    """A loss: what a setting comes to on average over seeds, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One contender in the end: all its settings, which of them were searched, and what fresh seeds say of them.

    `value` is what its setting reaches in the race, over `seeds`; of the recommended one, on seeds of its own that
    nothing has used. `values` are the losses behind it. `untuned` is what its defaults come to, `recommended` what the
    settings do that we advise to start from, where there are some. `example_error` is the standard error of one
    training's test loss over the test examples, which no number of seeds makes smaller. `rank` tells where its
    optimizer stands: the mean judged loss over its studies, with its interval. `train_loss` is the median final
    training loss; `diverged`, `failed` and `missed` (the target) count seeds of the race; `seconds` is the median time
    of one training; `state_bytes` what the optimizer keeps for the task's model, None where that is out of sight, and
    `state_numbers` how many numbers for each parameter. `at_edge` names settings that ended near an end of their range;
    `good_rates` is the factor by which the learning rate may vary while the loss stays within 10 % of the best found.
    """

    name: str
    about: str
    settings: dict[str, Any]
    searched: list[str]
    values: list[float]
    value: Value
    untuned: Value
    recommended: Value | None
    example_error: float
    rank: Value | None
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
    entries: dict[str, list[Entry]]

    @property
    def bound(self) -> str:
        """A mark before a value that is a lower bound, since some seeds never met the target."""
        return "≥ " if self.missed else ""

    @property
    def lost(self) -> int:
        """Seeds of the race that did not end well, or missed the target."""
        return self.diverged + self.failed + self.missed


def summarize(described: Mapping[str, Any], entries: Sequence[Entry], plan: Plan, findings: Findings) -> Summary:
    """The summary of a contender whose trainings are all stored."""
    name, scale = described["name"], plan.scale
    mine = [entry for entry in entries if entry.contender == name]
    staged = {stage: [entry for entry in mine if entry.stage == stage] for stage in STAGES}
    scores = findings.race.scores
    raced, block = staged["race"], staged["value"]
    shown = block or raced
    chosen = raced[0].settings
    statuses = [entry.result.status for entry in raced]
    judged = findings.ranking.scores[name] if findings.ranking else []
    leader = scores[findings.race.kept[0]]
    ranges = described["space"] | {key: vars(found) for key, found in plan.ranges[name].items()}
    return Summary(
        name=name,
        about=described["about"],
        settings={**described["start"], **chosen},
        searched=list(chosen),
        values=[_measured(entry.result, plan) for entry in shown],
        value=_value(findings.value if block else scores[name], plan, lost=_all_lost(raced)),
        untuned=_value(findings.untuned[name], plan, lost=_all_lost(staged["start"])),
        recommended=(
            _value(findings.recommended[name], plan, lost=_all_lost(staged["recommended"]))
            if name in findings.recommended
            else None
        ),
        example_error=_example_error(shown) if plan.judged_on == "test" else math.nan,
        rank=_value(judged, plan) if judged else None,
        studies=len(judged),
        worse_by=scale.worse_by(fmean(scores[name]), fmean(leader[: len(scores[name])])),
        train_loss=median(loss_of(entry.result, "train") for entry in shown),
        seeds=[entry.seed for entry in raced],
        diverged=statuses.count("diverged"),
        failed=statuses.count("failed"),
        missed=statuses.count("ok") - findings.race.steady[name].count(True),
        seconds=median(entry.result.seconds for entry in raced),
        state_bytes=described["state_bytes"],
        state_numbers=described["state_numbers"],
        line=line_of_code(described, chosen),
        at_edge=at_edge({key: ranges[key] for key in described["remarkable"]}, chosen),
        good_rates=good_rates(staged["search"], plan),
        entries=staged,
    )


def _measured(result: Result, plan: Plan) -> float:
    """What counts of a training: the loss that is judged, or the time to the target."""
    return loss_of(result, plan.judged_on) if plan.target is None else time_to_target(result, plan.target)


def _example_error(entries: Sequence[Entry]) -> float:
    errors = [entry.result.test_error for entry in entries if math.isfinite(entry.result.test_error)]
    return fmean(errors) if errors else math.nan


def _all_lost(entries: Sequence[Entry]) -> bool:
    return all(entry.result.status != "ok" for entry in entries)


def _value(scores: Sequence[float], plan: Plan, *, lost: bool = False) -> Value:
    if lost:  # its scores are those of the untrained model
        return Value(math.inf, math.inf, math.inf)
    found = statistics.interval(scores)
    return Value(*(plan.scale.loss(score) for score in (found.mean, found.low, found.high)))


def good_rates(searched: Sequence[Entry], plan: Plan) -> float | None:
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
