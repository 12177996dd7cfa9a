"""Summary: what the stored results say of each contender. Reads the store's entries, trains nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from thalweg.comparison.contenders import line_of_code
from thalweg.comparison.plan import Plan
from thalweg.comparison.search import Settings
from thalweg.comparison.statistics import Interval, median_interval
from thalweg.comparison.store import Entry
from thalweg.comparison.training import Result
from thalweg.rules import Range

STAGES = ("search", "retrain", "final")


def loss_of(result: Result, split: str) -> float:
    """The loss on a split that a result counts with: infinity unless the training ended well."""
    value: float = getattr(result, split)
    return value if result.status == "ok" and not math.isnan(value) else math.inf


def ranked(entries: Iterable[Entry], split: str) -> list[tuple[float, int, Settings]]:
    """Every setting that was tried, as (median loss over its seeds, trial, settings), the best first."""
    losses: dict[int, list[float]] = {}
    settings: dict[int, Settings] = {}
    for entry in entries:
        losses.setdefault(entry.trial, []).append(loss_of(entry.result, split))
        settings[entry.trial] = entry.settings
    return sorted((median(losses[trial]), trial, settings[trial]) for trial in losses)


@dataclass(frozen=True)
class Summary:
    """One contender in the end: all its settings, which of them were searched, and what fresh seeds say of them.

    `values` are the losses that count, by seed, and `value` their median with its interval; `train_loss` is the
    median final training loss; `diverged` and `failed` count seeds; `seconds` is the median time of one training;
    `state_bytes` what the optimizer keeps for the task's model, None where that is out of sight, and `state_numbers`
    how many numbers for each parameter. `at_edge` names settings that ended near an end of their range.
    """

    name: str
    about: str
    settings: dict[str, Any]
    searched: list[str]
    values: list[float]
    value: Interval
    train_loss: float
    seeds: list[int]
    diverged: int
    failed: int
    seconds: float
    state_bytes: int | None
    state_numbers: int
    line: str
    at_edge: list[str]
    entries: dict[str, list[Entry]]


def summarize(described: Mapping[str, Any], entries: Sequence[Entry], plan: Plan) -> Summary:
    """The summary of a contender whose trainings are all stored."""
    mine = [entry for entry in entries if entry.contender == described["name"]]
    staged = {stage: [entry for entry in mine if entry.stage == stage] for stage in STAGES}
    finals = staged["final"]
    chosen = finals[0].settings
    values = [loss_of(entry.result, plan.judged_on) for entry in finals]
    statuses = [entry.result.status for entry in finals]
    return Summary(
        name=described["name"],
        about=described["about"],
        settings={**described["start"], **chosen},
        searched=list(chosen),
        values=values,
        value=median_interval(values),
        train_loss=median(loss_of(entry.result, "train") for entry in finals),
        seeds=[entry.seed for entry in finals],
        diverged=statuses.count("diverged"),
        failed=statuses.count("failed"),
        seconds=median(entry.result.seconds for entry in finals),
        state_bytes=described["state_bytes"],
        state_numbers=described["state_numbers"],
        line=line_of_code(described, chosen),
        at_edge=at_edge({name: described["space"][name] for name in described["remarkable"]}, chosen),
        entries=staged,
    )


def at_edge(ranges: Mapping[str, Mapping[str, Any]], settings: Settings) -> list[str]:
    """The settings within a twentieth of an end of their range: a better one may lie beyond it."""
    positions = {name: Range(**found).position(settings[name]) for name, found in ranges.items() if name in settings}
    return [name for name, position in positions.items() if not 0.05 <= position <= 0.95]
