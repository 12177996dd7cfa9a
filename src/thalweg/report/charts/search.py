"""The search of a comparison: the best value against the budget, the settings that were tried, and what was pruned."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.terms import name_of_measure
from thalweg.comparison.results.verdict import Verdict
from thalweg.errors import printable
from thalweg.report.charts.comparison import (
    MAX_POINTS,
    Results,
    labels_of,
    numbers_of,
    selection_values,
)
from thalweg.report.charts.data import Chart, Point, Series, View, alt_of_ends, place_axis, thinned, value_axis
from thalweg.report.numbers import capitalized, format_digits, shorten
from thalweg.tasks.measurement import with_article

MIN_HALF = 2  # settings of a contender: half of fewer says nothing
MAX_DRAWN_TRIALS = 500  # of a contender, in the chart of the settings
RESAMPLES = 2000
_NO_VALUES = ("pruned", "stopped", "diverged", "failed")


class JudgedResults(Results, Protocol):
    """A comparison with its verdict."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def findings(self) -> Findings: ...


def expected_best(costs: Sequence[float]) -> list[float]:
    """Return the mean of the least of n costs, over all choices of n of them, for n from 1.

    Args:
        costs: The costs of settings that were drawn independently.

    Example:
        >>> expected_best([1.0, 3.0, 2.0])
        [2.0, 1.3333333333333333, 1.0]
    """
    ordered = sorted(costs)
    total = len(ordered)
    means = []
    for count in range(1, total + 1):
        # The chance that the k-th least is the least of those chosen, from one k to the next.
        chance, mean = count / total, 0.0
        for place, cost in enumerate(ordered):
            mean += chance * cost
            left = total - place - 1
            if left < count:
                break
            chance *= (left - count + 1) / left
        means.append(mean)
    return means


def running_best(costs: Sequence[float]) -> list[float]:
    """Return the least cost so far, after each of them.

    Example:
        >>> running_best([3.0, 1.0, 2.0])
        [3.0, 1.0, 1.0]
    """
    return [float(cost) for cost in np.minimum.accumulate(costs)] if costs else []


def is_exchangeable(results: Results) -> bool:
    """Return True if the settings of a contender were drawn independently, so that their order says nothing."""
    design = results.plan.design
    return isinstance(design, Design) and not design.refined and not design.pruned


class BudgetCurve(NamedTuple):
    """The best cost of a contender against the settings that were tried.

    Attributes:
        counts: Numbers of settings.
        costs: The best cost after each of them, or its mean over all choices of so many settings.
        values: The costs of the settings themselves.
    """

    counts: list[int]
    costs: list[float]
    values: list[float]

    def at(self, count: float) -> float:
        """Return the best cost after a number of settings; infinite if the first one came later."""
        costs = [cost for place, cost in zip(self.counts, self.costs, strict=True) if place <= count]
        return costs[-1] if costs else math.inf


def budget_curves(results: Results) -> tuple[dict[str, BudgetCurve], int]:
    """Return the curve of each contender whose settings have values, and the number of settings at the end.

    An adaptive search counts the settings of all contenders together, in its order; studies count those of a contender.
    """
    plan = results.plan
    if isinstance(plan.design, Design):
        curves = {}
        for summary in results.contenders:
            trials = sorted(summary.trials["search"], key=lambda trial: (trial.study, trial.trial))
            costs = [plan.scale.cost(value) for value in selection_values(results, trials)]
            if len(costs) >= MIN_HALF and all(map(math.isfinite, costs)):
                best = expected_best(costs) if is_exchangeable(results) else running_best(costs)
                curves[summary.name] = BudgetCurve(list(range(1, len(costs) + 1)), best, costs)
        return curves, max((len(curve.counts) for curve in curves.values()), default=0)
    searched = [trial for summary in results.contenders for trial in summary.trials["search"]]
    searched = [trial for trial in searched if trial.study == plan.setting_study]
    searched.sort(key=lambda trial: (trial.trial >= 0, abs(trial.trial)))  # starting points came first
    values = selection_values(results, searched)
    curves = {}
    for summary in results.contenders:
        places = [place for place, trial in enumerate(searched, 1) if trial.contender == summary.name]
        costs = [plan.scale.cost(values[place - 1]) for place in places]
        if costs and all(map(math.isfinite, costs)):
            best = running_best(costs)
            curves[summary.name] = BudgetCurve([*places, len(searched)], [*best, best[-1]], costs)
    return curves, len(searched)


def budget_chart(results: Results, colours: Mapping[str, int]) -> Chart | None:
    """Return the best value that a search of so many settings finds; None if nothing was searched."""
    plan, texts = results.plan, labels_of(results)
    curves, total = budget_curves(results)
    series = []
    for name, curve in curves.items():
        points = [Point(count, plan.scale.cost(cost)) for count, cost in zip(curve.counts, curve.costs, strict=True)]
        series.append(Series(name, colours[name], thinned(points, MAX_POINTS), label=texts[name]))
    if not series or total < 2 * MIN_HALF:
        return None
    is_average = is_exchangeable(results)
    label = f"{'expected best' if is_average else 'best'} {_measure(results)}"
    whose = "a contender" if isinstance(plan.design, Design) else "all contenders"
    x = place_axis(f"settings of {whose}", [1.0, *(point.x for line in series for point in line.points)])
    y = value_axis(label, (point.y for line in series for point in line.points), maximize=plan.scale.maximize)
    alt = alt_of_ends(f"{label} against the number of settings", series)
    view = View("", x, y, series, alt, (total / 2, "half"))
    title = capitalized(f"{label} against the budget")
    return Chart("budget", "lines", title, [view], is_stepped=not is_average)


def _measure(results: Results) -> str:
    plan = results.plan
    return name_of_measure(results.record, plan.selected_on) if plan.target is None else results.metric


def half_search_sentences(results: JudgedResults) -> str:
    """Return who led the search after half of its settings and after all, beside the verdict; empty if it was short.

    Args:
        results: The comparison.
    """
    curves, total = budget_curves(results)
    if len(curves) < 2 or total < 4 * MIN_HALF:
        return ""
    cost_of = results.plan.scale.cost
    half = {
        name: curve.at(len(curve.values) // 2 if is_exchangeable(results) else total / 2)
        for name, curve in curves.items()
    }
    whole = {name: curve.costs[-1] for name, curve in curves.items()}
    first_half, first = (min(values, key=lambda name: values[name]) for values in (half, whole))
    value = with_article(f"{_measure(results)} of {format_digits(cost_of(half[first_half]))}")
    whose = "the same contender" if first == first_half else shorten(first, 40)
    end = f"after all settings {whose} leads it, with {format_digits(cost_of(whole[first]))}"
    odds = ""
    if is_exchangeable(results):
        share = _share_of_halves({name: curve.values for name, curve in curves.items()}, first)
        odds = f" In {100 * share:.0f} % of random halves {shorten(first, 40)} leads."
    start = f"After half of its settings {shorten(first_half, 40)} leads the search, with {value}"
    return f"{start}; {end}.{odds} {_beside_the_verdict(results, first_half)}"


def _beside_the_verdict(results: JudgedResults, first_half: str) -> str:
    """Return how the leader of half of the search and the verdict belong together, in a sentence."""
    recommended = results.verdict.recommended
    if recommended is None:
        return "The verdict recommends neither: the search alone shows nothing to rely on."
    name, evidence = shorten(recommended, 40), results.findings.evidence
    if recommended == first_half:
        return f"The verdict, {name}, is the leader of half of the search."
    if any(results.findings.race.scores.values()):
        decided = "the race from fresh seeds decides it, to which the search only sends contenders"
    elif evidence is not None and evidence.final_seeds:
        decided = "trainings from fresh seeds decide it, to which the search only sends settings"
    else:
        decided = "it needs the second half of the search"
    return f"The verdict is {name} nevertheless: {decided}."


def _share_of_halves(costs: Mapping[str, Sequence[float]], first: str) -> float:
    """The share of random halves of all settings in which this contender has the best one."""
    generator = np.random.default_rng(0)
    best = {}
    for name, column in costs.items():
        order = np.argsort(generator.random((RESAMPLES, len(column))), axis=1)[:, : len(column) // 2]
        best[name] = np.asarray(column)[order].min(axis=1)
    least = np.min(list(best.values()), axis=0)
    return float(np.mean(best[first] <= least))


def search_json(results: Results, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the settings that each contender tried, for the script: axes and one row of values for each trial.

    Args:
        results: The comparison.
        colours: The number of the colour of each contender.
    """
    numbers = numbers_of(results.trainings)
    plan = results.plan
    split = plan.selected_on
    label = name_of_measure(results.record, split) if plan.target is None else results.metric
    searches = []
    for summary in results.contenders:
        trials = summary.trials["search"]
        names = [name for name in summary.searched if all(_is_number(trial.settings.get(name)) for trial in trials)]
        if len(trials) < MIN_HALF or not names:
            continue
        step = math.ceil(len(trials) / MAX_DRAWN_TRIALS)
        chosen = {name: summary.settings[name] for name in summary.searched}
        rows = []
        for trial in trials[::step]:
            lost = trial.result.status in _NO_VALUES
            value = None if lost else selection_values(results, [trial])[0]
            is_chosen = dict(trial.settings) == chosen
            mark = "chosen" if is_chosen else "stopped" if trial.result.status in ("pruned", "stopped") else "lost"
            rows.append(
                [
                    [trial.settings[name] for name in names],
                    value if value is not None and math.isfinite(value) else None,
                    mark if lost or is_chosen else "",
                    numbers[trial.key],
                ]
            )
        searches.append(
            {
                "name": shorten(summary.name),
                "colour": colours[summary.name],
                "label": shorten(label),
                "maximize": plan.scale.maximize,
                "settings": [shorten(name, 40) for name in names],
                "is_log": [_spans_decades([trial.settings[name] for trial in trials]) for name in names],
                "rows": rows,
            }
        )
    return searches


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 8 * min(values)


def pruned_rows(results: Results) -> list[dict[str, Any]]:
    """Return for each contender how its searched settings ended, and where those that were stopped early ended."""
    rows = []
    for summary in results.contenders:
        trials = summary.trials["search"]
        statuses = Counter(trial.result.status for trial in trials)
        stopped = [trial for trial in trials if trial.result.status in ("pruned", "stopped")]
        rows.append(
            {
                "name": summary.name,
                "key": printable(summary.name),
                "tried": len(trials),
                "ended": statuses["ok"],
                "stopped": len(stopped),
                "diverged": statuses["diverged"],
                "failed": statuses["failed"],
                "stopped_at": _steps_of(stopped),
                "seconds": sum(trial.result.seconds for trial in stopped),
            }
        )
    return rows


def _steps_of(trials: Sequence[TrialRecord]) -> str:
    """Return the last steps of trials and how often each occurs: ``12 (5 times), 30``."""
    steps = Counter(trial.result.evaluations[-1].step for trial in trials if trial.result.evaluations)
    texts = [f"{step:,}" if count == 1 else f"{step:,} ({count} times)" for step, count in sorted(steps.items())]
    return ", ".join(texts[:4]) + (" …" if len(texts) > 4 else "")
