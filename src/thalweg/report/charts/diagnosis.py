"""Charts of a diagnosis: the loss with the event marked, profiles over depth, and the cure beside the training."""

import math
from collections.abc import Iterable, Mapping

from thalweg.diagnosis.run_record import RunRecord
from thalweg.report.charts.data import MAX_DRAWN, Axis, Chart, Point, Series, View, place_axis, thinned, whole_axis
from thalweg.report.numbers import MAX_NAME, capitalized, format_number, shorten

AS_IT_IS, WITH_CURE = "as it is", "with the cure"
COLOURS = {AS_IT_IS: 1, WITH_CURE: 0}
_SHORT = {WITH_CURE: "cure"}  # at the end of a line
_WATCHED = "the training"
_MAX_POINTS = 1000  # of a curve: a longer one is thinned


def loss_chart(run: RunRecord, since: int) -> Chart:
    """Return the training loss of a run, with a mark where a finding began.

    Args:
        run: The run.
        since: The step from which the finding holds; 0 marks nothing.
    """
    points = [Point(step, loss) for step, loss in enumerate(run.losses, 1) if abs(loss) < MAX_DRAWN]
    lost = next((step for step, loss in enumerate(run.losses, 1) if not abs(loss) < MAX_DRAWN), None)
    alt = "Training loss of each step"
    if points:
        alt += f": {format_number(points[0].y)} at first, {format_number(points[-1].y)} at last"
    alt += f"; not finite from step {lost:,}" if lost is not None else ""
    alt += f"; the cause shows from step {since:,}" if since else ""
    points = thinned(points, _MAX_POINTS)
    y = whole_axis("training loss", [point.y for point in points])
    if lost is not None:
        points = _in_order([*points, Point(lost, math.nan, mark="lost")])
    x = place_axis("step", [0, since, len(run.losses)])
    vertical = (float(since), f"step {since:,}") if since else None
    series = [Series(_WATCHED, COLOURS[AS_IT_IS], points)]
    return Chart("loss", "lines", "Training loss", [View("", x, y, series, alt, vertical)])


def profile_chart(name: str, quantity: str, values: Mapping[str, float], where: str | None) -> Chart:
    """Return a quantity of each module in order of depth, the first on top; the module to blame is emphasized.

    Args:
        name: A name of the chart for files and links.
        quantity: The name of the quantity.
        values: The value of each module or parameter, in order of depth.
        where: The module to blame; None if none is.
    """
    names = list(values)
    points = [
        Point(row, value, mark="chosen" if is_part_of(module, where) else "")
        for row, (module, value) in enumerate(values.items())
    ]
    alt = f"{quantity} over depth"
    if len(names) > 1:
        ends = (f"{format_number(values[module])} in {shorten(module, MAX_NAME)}" for module in (names[0], names[-1]))
        alt += f": {' to '.join(ends)}"
    x = whole_axis(shorten(quantity, MAX_NAME), values.values())
    y = Axis("", "linear", None, (-0.5, len(names) - 0.5))
    series = [Series(_WATCHED, COLOURS[AS_IT_IS], points)]
    view = View("", x, y, series, shorten(alt), rows=[shorten(module, 2 * MAX_NAME) for module in names])
    return Chart(name, "rows", f"{capitalized(shorten(quantity, MAX_NAME))} over depth", [view])


def is_part_of(name: str, where: str | None) -> bool:
    """Return True if a module or parameter is the one that is meant, or lies in it."""
    return bool(where) and (name == where or name.startswith(f"{where}.") or f"{where}".startswith(f"{name}."))


def score_axis(runs: Iterable[RunRecord], label: str, sign: float) -> Axis:
    """Return the axis of scores that charts of these runs share; a metric never has a logarithmic one.

    Args:
        runs: The runs.
        label: The name of the score.
        sign: -1 if the score is a loss.
    """
    scores = [sign * score for run in runs for _, score in run.scores]
    return whole_axis(shorten(label, MAX_NAME), scores, log=None if sign < 0 else False, is_fixed=True)


def cure_chart(before: RunRecord, after: RunRecord, axis: Axis, sign: float) -> Chart:
    """Return the score of a seed along the training, as it is and with the cure.

    Args:
        before: The run as it is.
        after: The run with the cure.
        axis: The axis of scores, shared by the charts of all seeds.
        sign: -1 if the score is a loss.
    """
    runs = {AS_IT_IS: before, WITH_CURE: after}
    series = [
        Series(name, COLOURS[name], _score_points(run, sign), label=_SHORT.get(name, name))
        for name, run in runs.items()
    ]
    ends = " and ".join(f"{_end(run, sign)} {name}" for name, run in runs.items())
    x = place_axis("step", [0, *(point.x for line in series for point in line.points)])
    view = View("", x, axis, series, f"{axis.label} along the training, seed {after.seed}: {ends}")
    return Chart(f"seed-{after.seed}", "lines", f"Seed {after.seed}", [view], maximize=sign > 0)


def _score_points(run: RunRecord, sign: float) -> list[Point]:
    points = [Point(step, sign * score) for step, score in run.scores if abs(score) < MAX_DRAWN]
    lost = next((step for step, score in run.scores if not abs(score) < MAX_DRAWN), None)
    if lost is None and run.ending == "diverged":  # it may have no score after that
        lost = len(run.losses)
    return points if lost is None else _in_order([*points, Point(lost, math.nan, mark="lost")])


def _in_order(points: Iterable[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.x)


def _end(run: RunRecord, sign: float) -> str:
    score = run.scores[-1][1] if run.scores and run.ending != "diverged" else math.nan
    return format_number(sign * score) if math.isfinite(score) else "diverged"
