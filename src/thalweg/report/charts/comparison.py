"""The charts of a comparison: values, learning curves, learning rates, and validation beside test."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Protocol

import numpy as np

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.presentation.overview import compared_value
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.scoring import loss_of, measured_value
from thalweg.comparison.results.summary import Summary
from thalweg.comparison.results.terms import name_of_measure
from thalweg.comparison.training.result import Evaluation
from thalweg.report.charts.data import (
    Axis,
    Chart,
    Mark,
    Point,
    Series,
    View,
    alt_of_best,
    alt_of_ends,
    alt_of_intervals,
    place_axis,
    thinned,
    value_axis,
)
from thalweg.report.numbers import capitalized

FLOAT32_RESOLUTION = 2**-24
MAX_POINTS = 200  # of a curve
MAX_DOTS = 400  # of a contender; of more settings an even share is drawn
_BEYOND_CURVES = 100.0  # times the median: the first steps of a curve lie far above its end


class Results(Protocol):
    """The part of a comparison that its charts are made of."""

    @property
    def record(self) -> ComparisonRecord: ...
    @property
    def plan(self) -> ComparisonPlan: ...
    @property
    def contenders(self) -> list[Summary]: ...
    @property
    def trainings(self) -> list[TrialRecord]: ...
    @property
    def metric(self) -> str: ...


def distance_to_optimum(loss: float, optimum: float | None) -> float:
    """Return loss - optimum, at least the resolution of float32; the loss itself if the optimum is unknown or 0."""
    return loss if not optimum else max(loss - optimum, FLOAT32_RESOLUTION * abs(optimum))


def labels_of(results: Results) -> dict[str, str]:
    """Return the label at the end of each contender's lines: its place in the table and its name."""
    return {summary.name: f"{place} {summary.name}" for place, summary in enumerate(results.contenders, 1)}


def numbers_of(trainings: Sequence[TrialRecord]) -> dict[object, int]:
    """Return the number of each training among the raw numbers, by key."""
    return {trial.key: number for number, trial in enumerate(trainings)}


def value_chart(results: Results, colours: Mapping[str, int]) -> Chart | None:
    """Return the value of each contender with its interval, the best on top; None if none is known.

    Values are those of the table, over the seeds on which contenders are compared: the intervals of other seeds would
    seem to tell contenders apart that the verdict does not. If the optimum is known, the chart shows distances to it.
    """
    plan = results.plan
    # A time to a target has no optimum, even if the loss has.
    optimum = plan.optimum if plan.target is None else None
    series: list[Series] = []
    for summary in results.contenders:
        value = compared_value(summary, plan)
        if not math.isfinite(value.mean):
            continue
        low, mean, high = (distance_to_optimum(end, optimum) for end in (value.low, value.mean, value.high))
        ends = (math.nan, math.nan) if value.count == 1 else (low, high)  # a single seed has no interval
        series.append(Series(summary.name, colours[summary.name], [Point(len(series), mean, *ends)]))
    if not series:
        return None
    label = results.metric + (" above the optimum" if optimum else "")
    points = [point for line in series for point in line.points]
    inside = [end for point in points for end in (point.y, point.low, point.high) if math.isfinite(end)]
    axis = value_axis(label, inside, maximize=plan.maximize and plan.target is None, beyond=5.0)
    if axis.log is not None and axis.log[1] < 3 * axis.log[0]:
        axis = Axis(label, "linear", axis.log, axis.linear)
    rows = Axis("", "linear", None, (-0.5, len(series) - 0.5))
    return Chart(
        "values",
        "intervals",
        capitalized(f"{label}, with 95 % intervals"),
        [View("", axis, rows, series, alt_of_intervals(label, series))],
        "Values of the table. The grey band is the interval of the leader.",
    )


def curve_charts(results: Results, colours: Mapping[str, int]) -> list[Chart]:
    """Return a chart for each split that has learning curves of its own, each against steps and against seconds."""
    plan, raced = results.plan, {summary.name: summary.raced for summary in results.contenders if summary.raced}
    runs = [entry.result.evaluations for entries in raced.values() for entry in entries]
    if not any(len(run) > 1 for run in runs):
        return []
    charts = []
    for split in ("validation", "train"):
        # On a surface without data all splits are the same function.
        if split == "validation" and plan.judged_on == "train":
            continue
        # A user's function need not report the training loss.
        if not any(math.isfinite(getattr(evaluation, split)) for run in runs for evaluation in run):
            continue
        label, optimum = name_of_measure(results.record, split), None
        if split == "train" and plan.optimum:
            label, optimum = f"{label} above the optimum", plan.optimum
        maximize = plan.maximize and split != "train"
        views = [
            _curve_view(results, raced, colours, split, label, unit, optimum=optimum, maximize=maximize)
            for unit in ("steps", "seconds")
        ]
        shown = [view for view in views if view is not None]
        if shown:
            charts.append(Chart(f"curves-{split}", "lines", capitalized(label), shown, maximize=maximize))
    return charts


def _curve_view(
    results: Results,
    raced: Mapping[str, Sequence[TrialRecord]],
    colours: Mapping[str, int],
    split: str,
    label: str,
    unit: str,
    *,
    optimum: float | None,
    maximize: bool,
) -> View | None:
    worst = -math.inf if maximize else math.inf
    texts = labels_of(results)
    is_function = results.record.workload.is_function
    series = []
    for name, entries in raced.items():
        points = _quartiles(entries, split, unit, optimum, worst)
        if points:
            series.append(Series(name, colours[name], thinned(points, MAX_POINTS), label=texts[name]))
    if not series:
        return None
    middles = [point.y for line in series for point in line.points]
    y = value_axis(label, middles, maximize=maximize, beyond=_BEYOND_CURVES)
    steps = "reports" if is_function else "steps"
    name = "seconds" if unit == "seconds" else steps
    x = place_axis(
        "training time" if unit == "seconds" else f"{'reports' if is_function else 'optimizer steps'}",
        [0.0, *(point.x for line in series for point in line.points)],
        unit="s" if unit == "seconds" else "",
    )
    return View(name, x, y, series, alt_of_ends(f"Median {label} against {name}", series))


def _quartiles(race: Sequence[TrialRecord], split: str, unit: str, optimum: float | None, worst: float) -> list[Point]:
    """Return the median over all seeds with the lower and upper quartile, along the training.

    A diverged loss counts as infinitely bad, and a quartile that is infinite is a gap. A training that stopped early
    keeps its last value.
    """
    runs = [entry.result.evaluations for entry in race if entry.result.evaluations]
    if not runs:
        return []
    longest = max(runs, key=lambda evaluations: evaluations[-1].step)
    places = [_place(runs, index, unit) for index in range(len(longest))]
    if not all(math.isfinite(place) for place in places):
        return []
    values = np.array(
        [
            [distance_to_optimum(getattr(_at(run, index), split), optimum) for index in range(len(longest))]
            for run in runs
        ]
    )
    values[~np.isfinite(values)] = worst
    quartiles = np.quantile(values, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf")
    quartiles[np.isinf(quartiles)] = np.nan
    return [
        Point(place, float(middle), float(low), float(high))
        for place, low, middle, high in zip(places, *quartiles, strict=True)
    ]


def _at(run: Sequence[Evaluation], index: int) -> Evaluation:
    return run[min(index, len(run) - 1)]


def _place(runs: Sequence[Sequence[Evaluation]], index: int, unit: str) -> float:
    """Return the step of an evaluation, or the median of its seconds over the runs that reach it."""
    reached = [run[index] for run in runs if index < len(run)]
    if unit == "steps":
        return max(evaluation.step for evaluation in reached)
    return median(evaluation.seconds for evaluation in reached)


def learning_rate_chart(results: Results, colours: Mapping[str, int]) -> Chart | None:
    """Return the value of each setting that was searched against its learning rate; None if none was searched."""
    plan = results.plan
    numbers = numbers_of(results.trainings)
    above = " above the optimum" if plan.optimum else ""
    label = f"{name_of_measure(results.record, plan.selected_on)}{above}"
    texts = labels_of(results)
    series = []
    for summary in results.contenders:
        entries = [trial for trial in summary.trials["search"] if "lr" in trial.settings]
        entries = [trial for trial in entries if trial.result.status not in ("pruned", "stopped")]
        chosen = {name: summary.settings[name] for name in summary.searched}
        points = [
            Point(
                float(trial.settings["lr"]),
                distance_to_optimum(loss_of(trial.result, plan.selected_on), plan.optimum),
                mark=_mark(trial, chosen, plan.selected_on),
                trial=numbers[trial.key],
            )
            for trial in entries
        ]
        if points:
            points = sorted(points, key=lambda point: point.x)
            dots, line = _with_marks(points, MAX_DOTS), valley(points, maximize=plan.maximize)
            series.append(Series(summary.name, colours[summary.name], dots, line, texts[summary.name]))
    values = [point.y for dots in series for point in dots.points]
    if not any(math.isfinite(value) for value in values):
        return None
    x = place_axis("learning rate", (point.x for dots in series for point in dots.points), is_log=True)
    y = value_axis(label, values, maximize=plan.maximize)
    alt = alt_of_best(label, "learning rate", series, maximize=plan.maximize)
    title = capitalized(f"{label} against learning rate")
    return Chart("learning-rates", "dots", title, [View("", x, y, series, alt)], maximize=plan.maximize)


def valley(points: Sequence[Point], *, maximize: bool = False) -> list[Point]:
    """Return the best point of each third of a decade: the line along which a learning rate may vary.

    Args:
        points: The points, in order of the learning rate.
        maximize: True if higher values are better.
    """
    best: dict[int, Point] = {}
    for point in points:
        if math.isfinite(point.y) and point.mark != "lost" and point.x > 0:
            third = math.floor(3 * math.log10(point.x))
            rival = best.get(third)
            if rival is None or (point.y > rival.y if maximize else point.y < rival.y):
                best[third] = point
    return [best[third] for third in sorted(best)]


def _mark(trial: TrialRecord, chosen: Mapping[str, float], split: str) -> Mark:
    if not math.isfinite(loss_of(trial.result, split)):
        return "lost"
    return "chosen" if dict(trial.settings) == dict(chosen) else ""


def _with_marks(points: Sequence[Point], count: int) -> list[Point]:
    """Return at most about so many points; those chosen are among them."""
    kept = thinned(points, count)
    return kept if len(kept) == len(points) else sorted({*kept, *(p for p in points if p.mark == "chosen")})


def split_chart(results: Results, colours: Mapping[str, int]) -> Chart | None:
    """Return the mean on the validation split beside that on the test split; None if they are the same data."""
    plan = results.plan
    if plan.target is not None or plan.selected_on == plan.judged_on:
        return None
    numbers = numbers_of(results.trainings)
    texts = labels_of(results)
    series = []
    for summary in results.contenders:
        trials = [trial for trial, _ in summary.beside_leader if trial.result.status == "ok"]
        points = [
            Point(
                getattr(trial.result, plan.selected_on), getattr(trial.result, plan.judged_on), trial=numbers[trial.key]
            )
            for trial in trials
        ]
        points = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
        if points and any(point.x != point.y for point in points):
            center = Point(fmean(point.x for point in points), fmean(point.y for point in points), mark="chosen")
            dots = [*thinned(points, MAX_DOTS), center] if len(points) > 1 else [center]
            series.append(Series(summary.name, colours[summary.name], dots, label=texts[summary.name]))
    if not series:
        return None
    x_label, y_label = (name_of_measure(results.record, split) for split in (plan.selected_on, plan.judged_on))
    points = [point for dots in series for point in dots.points]
    x = value_axis(x_label, (point.x for point in points), maximize=plan.maximize)
    y = value_axis(y_label, (point.y for point in points), maximize=plan.maximize)
    means = [f"{dots.name} {dots.points[-1].x:.3g} and {dots.points[-1].y:.3g}" for dots in series]
    alt = f"Means of {x_label} and {y_label}: {'; '.join(means[:12])}."
    return Chart("splits", "dots", "Validation beside test", [View("", x, y, series, alt)])


def split_sentences(results: Results) -> list[str]:
    """Return the pairs of contenders whose order on the validation split is not that on the test split, in sentences.

    Only differences beyond the margin on both splits count.
    """
    plan = results.plan
    if plan.target is not None or plan.selected_on == plan.judged_on:
        return ["The same data choose the settings and evaluate the contenders, so there is nothing to compare."]
    leader, *rivals = results.contenders
    sentences = []
    for summary in rivals:
        pairs = [
            (trial, own) for trial, own in summary.beside_leader if trial.result.status == own.result.status == "ok"
        ]
        if not pairs:
            continue
        by_split = [_worse_by(pairs, split, plan) for split in (plan.selected_on, plan.judged_on)]
        if by_split[0] < 0 < by_split[1]:
            words = [plan.scale.worse_by_in_words(abs(value)) for value in by_split]
            sentences.append(
                f"{summary.name}: better than {leader.name} by {words[0]} on validation, worse by {words[1]} on test."
            )
    return sentences or ["Validation and test put no contender on different sides of the leader."]


def _worse_by(pairs: Sequence[tuple[TrialRecord, TrialRecord]], split: str, plan: ComparisonPlan) -> float:
    """By how much the first of each pair is worse than the second on a split, on average."""
    own, leaders = (
        fmean(plan.scale.unclipped_score(getattr(trial.result, split), split) for trial in column)
        for column in zip(*pairs, strict=True)
    )
    return plan.scale.worse_by(own, leaders)


def selection_values(results: Results, trials: Sequence[TrialRecord]) -> list[float]:
    """Return what the search saw of trials: the value that chooses, that of the untrained model if there is none.

    Args:
        results: The comparison.
        trials: The trials.
    """
    plan = results.plan
    split = plan.selected_on if plan.target is None else plan.judged_on
    read: Callable[[TrialRecord], float] = (
        (lambda trial: loss_of(trial.result, plan.selected_on))
        if plan.target is None
        else (lambda trial: measured_value(trial.result, plan))
    )
    untrained = plan.scale.untrained.get(split, math.nan)
    return [value if math.isfinite(value) else untrained for value in map(read, trials)]
